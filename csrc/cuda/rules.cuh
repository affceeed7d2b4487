// What a rule makes of pairs: their weights in the sum and among the positives, and which groups let be. Weights in the
// sum are factors, or logarithms, which add to a logit: of 0 then adds exactly nothing, however large the logit.
#pragma once

#include <cstdint>

#include "cuda/values.h"

namespace fastpixcon {

__device__ inline bool lets(int which, bool same_group) {
  const Groups groups = static_cast<Groups>(which);
  return groups == Groups::kAny || (groups == Groups::kSame) == same_group;
}

// Which pairs of rows there are; rows without a group share none.
struct GroupRule {
  const int32_t *x, *y;
  int of_positives, of_negatives;

  __device__ explicit GroupRule(const PairRules& rules)
      : x(rules.x_groups),
        y(rules.y_groups),
        of_positives(rules.positive_groups),
        of_negatives(rules.negative_groups) {}
  __device__ bool any() const {
    return static_cast<Groups>(of_positives) == Groups::kAny && static_cast<Groups>(of_negatives) == Groups::kAny;
  }
  __device__ bool has(bool same_class, int i, int j) const {
    const bool same_group = x != nullptr && y != nullptr && x[i] == y[j];
    return lets(same_class ? of_positives : of_negatives, same_group);
  }
};

// What weights do nothing: 1, or its logarithm.
template <bool kLogarithms>
constexpr float kNoWeight = kLogarithms ? 0.0f : 1.0f;

template <bool kLogarithms>
__device__ float product_of_weights(float a, float b) {
  return kLogarithms ? a + b : a * b;
}

// W of pairs of classes.
template <bool kLogarithms>
struct ClassWeights {
  const float* table;  // [classes, classes]; null: ones
  int classes;

  __device__ explicit ClassWeights(const PairRules& rules) : table(rules.class_weights), classes(rules.classes) {
    if (kLogarithms && table != nullptr) table += static_cast<int64_t>(classes) * classes;
  }
  __device__ float of(int32_t anchor, int32_t row) const {
    return table == nullptr ? kNoWeight<kLogarithms> : table[static_cast<int64_t>(anchor) * classes + row];
  }
};

// A contrast row: its weights in the sum as a positive and, before W, as a negative.
template <bool kLogarithms>
struct RowWeights {
  float positive, negative;

  __device__ static RowWeights load(const float* weights, int64_t n, int64_t i) {
    const float* const from = weights + (kLogarithms ? 2 * n : 0);
    return {from[i], from[n + i]};
  }
  // Of a pair with an anchor, of their classes.
  __device__ float in_sum(bool same, const ClassWeights<kLogarithms>& w, int32_t anchor, int32_t own) const {
    return same ? positive : product_of_weights<kLogarithms>(negative, w.of(anchor, own));
  }
};

}  // namespace fastpixcon
