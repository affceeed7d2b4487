// What becomes of a pair in dL/ds.
#pragma once

#include "cuda/math.cuh"

namespace fastpixcon {

// What an anchor brings along.
struct Terms {
  float weight, pull, sum;
};

// weight * e^s / Z.
__device__ inline float push(float s, float weight, float log_z) { return weight * exp2_fast((s - log_z) * kLog2E); }

// What a positive's logit is pulled by: pull * Z / (Z + e^s), or pull. `sum` is 1 / Z and e = e^s if kFixed, else log Z
// and e = s.
template <bool kFixed>
__device__ float pull(float e, float pull, float sum, bool negatives) {
  if (!negatives) return pull;
  // e^s / Z <= e^80, far from where __fdividef gives up.
  return kFixed ? __fdividef(pull, fmaf(e, sum, 1.0f)) : pull * sigmoid(sum - e);
}

// Pairs of one class.
struct PositivePairs {
  bool apart, negatives;         // see Denominator
  bool rows_pull, columns_pull;  // which of them are anchors

  // dL/ds of a pair, which were `negative` if it was of two classes; e: see pull.
  template <bool kFixed>
  __device__ float slope(float negative, float e, const Terms& row, const Terms& column) const {
    float pulled = 0;
    if (rows_pull) pulled += pull<kFixed>(e, row.pull, row.sum, negatives);
    if (columns_pull) pulled += pull<kFixed>(e, column.pull, column.sum, negatives);
    return apart ? -pulled : negative - pulled;
  }
};

}  // namespace fastpixcon
