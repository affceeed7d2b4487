// The mean of losses: one block adds them up, in the same order always.
#include "cuda/mean_loss.h"
#include "cuda/warp.cuh"

namespace fastpixcon {

__global__ void __launch_bounds__(kMeanThreads) mean_loss(const float* loss, const float* mass, const float* weights,
                                                          float* value, float* share, int N, float scale, bool mean) {
  constexpr int kWarps = kMeanThreads / kWarp;
  __shared__ float totals[kWarps], counts[kWarps];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  float total = 0, counted = 0;
  for (int i = threadIdx.x; i < N; i += kMeanThreads) {
    const bool counts = mass[i] > 0;
    if (!counts && !isnan(loss[i])) continue;
    const float weighs = weights == nullptr ? 1 : weights[i];
    total = fmaf(weighs, loss[i], total);
    if (counts) counted += weighs;
  }
  total = warp_sum(total), counted = warp_sum(counted);
  if (lane == 0) totals[warp] = total, counts[warp] = counted;
  __syncthreads();
  if (warp > 0) return;
  total = warp_sum(totals[lane]), counted = warp_sum(counts[lane]);
  static_assert(kWarps == kWarp, "a lane has a warp");
  if (lane > 0) return;
  const float each = mean && counted > 0 ? scale / counted : scale;
  *value = total * each;
  *share = each;
}

MeanLossKernel mean_loss_kernel() { return &mean_loss; }

}  // namespace fastpixcon
