// Rows into the rings of a memory bank. A block has a ring: it counts the rows of its class, then copies them in their
// order, so that nothing depends on the order of threads. Of too many rows only the last ones are written: no place
// twice.
#include "cuda/convert.cuh"
#include "cuda/device_check.cuh"
#include "cuda/memory_enqueue_.h"
#include "cuda/warp.cuh"

namespace fastpixcon {
namespace {

__device__ float load_number(const void* rows, int64_t at, int dtype) {
  switch (static_cast<Dtype>(dtype)) {
    case Dtype::kBFloat16: return to_float(static_cast<const __nv_bfloat16*>(rows)[at]);
    case Dtype::kHalf: return to_float(static_cast<const __half*>(rows)[at]);
    default: return static_cast<const float*>(rows)[at];
  }
}

}  // namespace

template <typename scalar_t>
__global__ void __launch_bounds__(kEnqueueThreads)
    memory_enqueue(const __grid_constant__ Bank bank, const __grid_constant__ NewRows pixels,
                   const __grid_constant__ NewRows regions) {
  __shared__ int warps[kEnqueueThreads / kWarp];
  __shared__ int32_t found[kEnqueueThreads];  // rows of the class
  const int c = blockIdx.x, tid = threadIdx.x;
  const bool is_region = blockIdx.y == 1;
  const void* const rows = is_region ? regions.rows : pixels.rows;
  const int32_t* const labels = is_region ? regions.labels : pixels.labels;
  const int n = is_region ? regions.n : pixels.n, dtype = is_region ? regions.dtype : pixels.dtype;
  const int begin = is_region ? bank.pixel_size : 0, size = is_region ? bank.S - bank.pixel_size : bank.pixel_size;
  int64_t* const counter = bank.written + blockIdx.y * bank.written_stride_r + c * bank.written_stride_c;
  const int64_t before = *counter;
  FASTPIXCON_DEVICE_CHECK(before >= 0 && before < int64_t{1} << 62, "written: a count is outside of [0, 2^62)");

  int mine = 0, count;
  for (int i = tid; i < n; i += kEnqueueThreads) mine += labels[i] == c ? 1 : 0;
  block_exclusive_sum<kEnqueueThreads>(mine, warps, count);
  if (count == 0) return;
  if (tid == 0) *counter = before + count;
  if (size == 0) return;
  const int first = static_cast<int>(before % size);

  int rank = 0;  // of the next row
  for (int i0 = 0; i0 < n; i0 += kEnqueueThreads) {
    const bool taken = i0 + tid < n && labels[i0 + tid] == c;
    int sum;
    const int at = block_exclusive_sum<kEnqueueThreads>(taken ? 1 : 0, warps, sum);
    if (taken) found[at] = i0 + tid;
    __syncthreads();
    for (int k = tid / kWarp; k < sum; k += kEnqueueThreads / kWarp) {
      if (rank + k < count - size) continue;
      const int64_t from = static_cast<int64_t>(found[k]) * bank.D;
      const int place = begin + static_cast<int>((int64_t{first} + rank + k) % size);
      scalar_t* const to = static_cast<scalar_t*>(bank.rows) + c * bank.stride_c + place * bank.stride_s;
      for (int d = tid % kWarp; d < bank.D; d += kWarp)
        to[d * bank.stride_d] = from_float<scalar_t>(load_number(rows, from + d, dtype));
      if (tid % kWarp == 0) bank.labels[c * bank.label_stride_c + place * bank.label_stride_s] = c;
    }
    rank += sum;
  }
}

EnqueueKernel enqueue_kernel(Dtype bank) {
  switch (bank) {
    case Dtype::kBFloat16: return &memory_enqueue<__nv_bfloat16>;
    case Dtype::kHalf: return &memory_enqueue<__half>;
    default: return &memory_enqueue<float>;
  }
}

}  // namespace fastpixcon
