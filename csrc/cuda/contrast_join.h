// What the sums over several contrast sets make of each anchor, for host code.
#pragma once

#include <tuple>

namespace fastpixcon {

constexpr int kJoinThreads = 256, kJoinRows = 8;  // a warp a row

// Sums over positives, [N] each; null: no such set.
struct SetSums {
  const float *loss, *weight, *mass;

  static constexpr auto kFields = std::tuple{&SetSums::loss, &SetSums::weight, &SetSums::mass};
};

// What a bank leaves for the gradient: log of its sum [N], mean and pull [N, D].
struct BankSums {
  const float *log_sum, *mean, *pull;

  static constexpr auto kFields = std::tuple{&BankSums::log_sum, &BankSums::mean, &BankSums::pull};
};

// loss [N] the mean over the positives of both sets, times scale and the anchor's weight (null: 1), and what taint [N]
// (null: 0) adds; weight [N] the mean, mass [N] the sum; memory_gradient [N, D], null: not wanted.
using ContrastJoinKernel = void (*)(SetSums batch, SetSums memory, BankSums bank, const float* log_sum,
                                    const float* taint, const float* anchor_weights, const float* temperature,
                                    float* loss, float* weight, float* mass, float* memory_gradient, int N, int D,
                                    float scale, bool negatives);
ContrastJoinKernel contrast_join_kernel();

}  // namespace fastpixcon
