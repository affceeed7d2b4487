// Rules of pairs beyond their labels, for kernels that are compiled for them.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

#include "common/values.h"
#include "cuda/host/rows.h"
#include "cuda/values.h"

namespace fastpixcon {

struct Ruling {
  bool exists = false;                      // not all pairs are alike
  std::optional<at::Tensor> class_weights;  // [2, K, K] and their logarithms; none: ones
  int64_t classes = 0;                      // K, below which labels are; 0: any
  Groups positives = Groups::kAny, negatives = Groups::kAny;

  Ruling() = default;
  // weighed: the rows are.
  Ruling(const Rule& rule, bool weighed);

  bool grouped() const { return positives != Groups::kAny || negatives != Groups::kAny; }
};

Groups groups_of(c10::string_view which);
bool weighed(const Rows& rows);

// Rows whose labels index class_weights, if there are some: not ranked.
Rows labelled_for(const Ruling& ruling, Rows rows);

// Adds to prepared rows what a rule wants of those that they come from.
void add_rules(const Ruling& ruling, const Rows& from, Prepared& rows);

// Of a bank's rows, [4, K * S], with what is checked of their labels [K * S].
at::Tensor bank_weights(const Ruling& ruling, const BankRows& bank, const at::Tensor& labels);

// As kernels take it: PairRules.
template <class X, class Y>
auto rules_of(const Ruling& ruling, const X& x, const Y& y) {
  return std::tuple(x.weights, y.weights, x.groups, y.groups, ruling.class_weights, ruling.classes,
                    static_cast<int>(ruling.positives), static_cast<int>(ruling.negatives));
}

}  // namespace fastpixcon
