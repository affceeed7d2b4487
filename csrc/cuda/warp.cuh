// Sums over the lanes of a warp and the threads of a block.
#pragma once

#include <cstdint>

namespace fastpixcon {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = ~0u;

// Over kLanes neighbouring lanes, each of which gets it.
template <int kLanes = kWarp, typename T>
__device__ T warp_sum(T x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

// NaN is left out.
template <int kLanes = kWarp>
__device__ float warp_max(float x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

// The sum over this lane and those before it.
template <typename T>
__device__ T warp_inclusive_sum(T x) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const T before = __shfl_up_sync(kAllLanes, x, step);
    if (lane >= step) x += before;
  }
  return x;
}

// The sum over the threads before this one; total: over all of them. Shared memory for it: warps.
template <int kThreads, typename T>
__device__ T block_exclusive_sum(T x, T (&warps)[kThreads / kWarp], T& total) {
  const int warp = threadIdx.x / kWarp;
  const T up_to = warp_inclusive_sum(x);
  if (threadIdx.x % kWarp == kWarp - 1) warps[warp] = up_to;
  __syncthreads();
  T before = 0;
  total = 0;
#pragma unroll
  for (int i = 0; i < kThreads / kWarp; ++i) {
    if (i == warp) before = total;
    total += warps[i];
  }
  __syncthreads();
  return before + up_to - x;
}

}  // namespace fastpixcon
