#include "cuda/convert.cuh"
#include "cuda/gather_normalize.h"

namespace fastpixcon {

template <typename scalar_t>
__global__ void gather_normalize(const void* embeddings, const int64_t* index, void* rows, float* inv_norm, int64_t N,
                                 int64_t pixels, int D, int h, int w, int64_t stride_b, int64_t stride_d,
                                 int64_t stride_h, int64_t stride_w) {
  const int64_t n = blockIdx.x * 4 + threadIdx.x / 32;
  if (n >= N) return;
  const int64_t pixel = index[n];
  const int lane = threadIdx.x % 32;
  const scalar_t* from = static_cast<const scalar_t*>(embeddings) + pixel / (int64_t(h) * w) * stride_b +
                         pixel / w % h * stride_h + pixel % w * stride_w;
  float sum = 0;
  for (int d = lane; d < D && pixel >= 0; d += 32) {
    const float x = to_float(from[d * stride_d]);
    sum += x * x;
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  const float inverse = sum > 0 ? rsqrtf(sum) : 0;
  for (int d = lane; d < D; d += 32)
    static_cast<scalar_t*>(rows)[n * D + d] =
        pixel < 0 ? from_float<scalar_t>(0.0f) : from_float<scalar_t>(to_float(from[d * stride_d]) * inverse);
  if (lane == 0) inv_norm[n] = inverse;
}

GatherNormalizeKernel gather_normalize_kernel(Dtype dtype) {
  switch (dtype) {
    case Dtype::kBFloat16: return &gather_normalize<__nv_bfloat16>;
    case Dtype::kHalf: return &gather_normalize<__half>;
    default: return &gather_normalize<float>;
  }
}

}  // namespace fastpixcon
