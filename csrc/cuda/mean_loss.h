// The mean of losses, for host code.
#pragma once

namespace fastpixcon {

constexpr int kMeanThreads = 1024;

// One block. From losses and masses [N], of positives, and weights [N] (null: ones): value [], the mean over those that
// have a positive times scale, or the sum; NaN if a loss is. share []: what a loss of weight 1 is of it.
using MeanLossKernel = void (*)(const float* loss, const float* mass, const float* weights, float* value, float* share,
                                int N, float scale, bool mean);
MeanLossKernel mean_loss_kernel();

}  // namespace fastpixcon
