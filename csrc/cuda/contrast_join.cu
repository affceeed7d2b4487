// The sums over several contrast sets, row by row: the loss of an anchor, and its gradient as far as a bank makes it.
#include "cuda/contrast_join.h"
#include "cuda/warp.cuh"

namespace fastpixcon {

__global__ void __launch_bounds__(kJoinThreads)
    contrast_join(const __grid_constant__ SetSums batch, const __grid_constant__ SetSums memory,
                  const __grid_constant__ BankSums bank, const float* log_sum, const float* taint,
                  const float* anchor_weights, const float* temperature, float* loss, float* weight, float* mass,
                  float* memory_gradient, int N, int D, float scale, bool negatives) {
  static_assert(kJoinThreads == kJoinRows * kWarp, "a warp has a row");
  const int n = blockIdx.x * kJoinRows + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (n >= N) return;
  const auto both = [n](const float* a, const float* b) {
    return a == nullptr ? b[n] : b == nullptr ? a[n] : a[n] + b[n];
  };
  const float of_all = both(batch.mass, memory.mass);
  const bool counts = of_all > 0;
  const float inverse = counts ? 1 / of_all : 0;
  const float mean_weight = both(batch.weight, memory.weight) * inverse;
  if (lane == 0) {
    float own = both(batch.loss, memory.loss) * inverse;  // what is NaN remains
    if (taint != nullptr) own += taint[n];
    if (anchor_weights != nullptr && (counts || isnan(own))) own *= anchor_weights[n];
    loss[n] = own * scale;
    weight[n] = mean_weight;
    mass[n] = of_all;
  }
  if (memory_gradient == nullptr) return;
  const float own = bank.log_sum[n], share = own == -INFINITY ? 0 : expf(own - log_sum[n]);
  const float push = negatives ? share * mean_weight : share, tau = *temperature;
  const int64_t row = static_cast<int64_t>(n) * D;
  for (int d = lane; d < D; d += kWarp)
    memory_gradient[row + d] = counts ? (push * bank.mean[row + d] - inverse * bank.pull[row + d]) / tau : 0;
}

ContrastJoinKernel contrast_join_kernel() { return &contrast_join; }

}  // namespace fastpixcon
