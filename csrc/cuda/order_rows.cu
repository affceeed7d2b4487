// Few labels in order: each counts those that come before it, in one launch where a sort takes several.
#include "cuda/order_rows.h"
#include "cuda/warp.cuh"

namespace fastpixcon {

template <typename key_t>
__global__ void __launch_bounds__(kOrderThreads)
    order_rows(const void* labels_, int64_t* source, int64_t* values, int N) {
  const auto* const keys = static_cast<const key_t*>(labels_);  // unsigned
  const int n = (blockIdx.x * kOrderThreads + threadIdx.x) / kOrderLanes, lane = threadIdx.x % kOrderLanes;
  const key_t own = keys[min(n, N - 1)];
  int before = 0;
#pragma unroll 4
  for (int m = lane; m < N; m += kOrderLanes) before += keys[m] < own || (keys[m] == own && m < n) ? 1 : 0;
  before = warp_sum<kOrderLanes>(before);
  if (n >= N || lane > 0) return;
  source[before] = n;
  if (values != nullptr) values[before] = static_cast<int64_t>(own) ^ INT64_MIN;
}

OrderRowsKernel order_rows_kernel(bool wide) { return wide ? &order_rows<uint64_t> : &order_rows<uint32_t>; }

}  // namespace fastpixcon
