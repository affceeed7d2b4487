#include "cuda/convert.cuh"
#include "cuda/device_check.cuh"
#include "cuda/gather_normalize.h"
#include "cuda/normalize.cuh"
#include "cuda/vector.cuh"
#include "cuda/warp.cuh"

namespace fastpixcon {
namespace {

template <int kVector>
constexpr int kSteps = kVector == 1 ? 8 : 16 / kVector;  // accesses of a lane whose values stay in registers

// -1 for padding.
__device__ int64_t checked_pixel(int64_t index, int64_t pixels) {
  FASTPIXCON_DEVICE_CHECK(index >= -1 && index < pixels, "index: a value is neither a pixel of embeddings nor -1");
  return index;
}

__device__ int64_t pixel_offset(int64_t pixel, int h, int w, int64_t stride_b, int64_t stride_h, int64_t stride_w) {
  const int64_t line = pixel / w;
  return line / h * stride_b + line % h * stride_h + pixel % w * stride_w;
}

}  // namespace

template <typename scalar_t, int kVector>
__global__ void __launch_bounds__(kGatherThreads)
    gather_rows(const void* embeddings, const int64_t* index, void* rows, float* inv_norm, int64_t N, int64_t pixels,
                int D, int h, int w, int64_t stride_b, int64_t stride_d, int64_t stride_h, int64_t stride_w) {
  const int64_t n = int64_t(blockIdx.x) * kGatherWarps + threadIdx.x / kWarp;
  if (n >= N) return;
  const int64_t pixel = checked_pixel(index[n], pixels);
  const int first = threadIdx.x % kWarp * kVector;
  constexpr int kStep = kWarp * kVector;
  const scalar_t* from = static_cast<const scalar_t*>(embeddings) +
                         pixel_offset(max(pixel, int64_t{0}), h, w, stride_b, stride_h, stride_w);
  scalar_t* to = static_cast<scalar_t*>(rows) + n * D;  // [D]

  scalar_t held[kSteps<kVector>][kVector];  // the row, as far as it fits
#pragma unroll
  for (int i = 0; i < kSteps<kVector>; ++i) {
    const int d = first + i * kStep;
#pragma unroll
    for (int j = 0; j < kVector; ++j) held[i][j] = from_float<scalar_t>(0);
    if (d < D && pixel >= 0) load(from + d * stride_d, held[i]);
  }
  const auto for_each = [&](auto&& use) {
#pragma unroll
    for (int i = 0; i < kSteps<kVector>; ++i) {
      if (first + i * kStep < D) use(held[i], first + i * kStep);
    }
    for (int d = first + kSteps<kVector> * kStep; d < D; d += kStep) {
      scalar_t x[kVector] = {};
      if (pixel >= 0) load(from + d * stride_d, x);
      use(x, d);
    }
  };

  float largest = 0;
  for_each([&](const scalar_t(&x)[kVector], int) {
    for (int j = 0; j < kVector; ++j) largest = fmaxf(largest, fabsf(to_float(x[j])));
  });
  const float scale = scale_of(warp_max(largest));
  float sum = 0;
  for_each([&](const scalar_t(&x)[kVector], int) {
    for (int j = 0; j < kVector; ++j) sum += to_float(x[j]) * scale * (to_float(x[j]) * scale);
  });
  const float direction = direction_of(warp_sum(sum), scale);
  for_each([&](const scalar_t(&x)[kVector], int d) {
    scalar_t unit[kVector];
    for (int j = 0; j < kVector; ++j) unit[j] = from_float<scalar_t>(to_float(x[j]) * scale * direction);
    store(to + d, unit);
  });
  if (first == 0) inv_norm[n] = scale * direction;
}

template <typename scalar_t, int kAnchors>
__global__ void __launch_bounds__(kGatherThreads)
    gather_planes(const void* embeddings, const int64_t* index, void* rows, float* inv_norm, int64_t N, int64_t pixels,
                  int D, int h, int w, int64_t stride_b, int64_t stride_d, int64_t stride_h, int64_t stride_w,
                  int pitch) {
  extern __shared__ int4 shared[];
  scalar_t* tile = reinterpret_cast<scalar_t*>(shared);  // [kAnchors, pitch]
  const int64_t n0 = int64_t(blockIdx.x) * kAnchors;
  {
    constexpr int kStep = kGatherThreads / kAnchors;
    const int anchor = threadIdx.x % kAnchors;
    const int64_t pixel = n0 + anchor < N ? checked_pixel(index[n0 + anchor], pixels) : -1;
    scalar_t* to = tile + anchor * pitch;
    const scalar_t* from = static_cast<const scalar_t*>(embeddings) +
                           pixel_offset(max(pixel, int64_t{0}), h, w, stride_b, stride_h, stride_w);
#pragma unroll 8
    for (int d = threadIdx.x / kAnchors; d < D; d += kStep)
      to[d] = pixel >= 0 ? from[d * stride_d] : from_float<scalar_t>(0);
  }
  __syncthreads();
  const int lane = threadIdx.x % kWarp;
  for (int i = threadIdx.x / kWarp; i < kAnchors && n0 + i < N; i += kGatherWarps) {
    const scalar_t* x = tile + i * pitch;
    float largest = 0, sum = 0;
    for (int d = lane; d < D; d += kWarp) largest = fmaxf(largest, fabsf(to_float(x[d])));
    const float scale = scale_of(warp_max(largest));
    for (int d = lane; d < D; d += kWarp) sum += to_float(x[d]) * scale * (to_float(x[d]) * scale);
    const float direction = direction_of(warp_sum(sum), scale);
    scalar_t* to = static_cast<scalar_t*>(rows) + (n0 + i) * D;
    for (int d = lane; d < D; d += kWarp) to[d] = from_float<scalar_t>(to_float(x[d]) * scale * direction);
    if (lane == 0) inv_norm[n0 + i] = scale * direction;
  }
}

__global__ void __launch_bounds__(kGatherThreads)
    mark_owners(const int64_t* index, int32_t* owner, int N, int64_t pixels) {
  const int n = blockIdx.x * kGatherThreads + threadIdx.x;
  if (n >= N) return;
  const int64_t pixel = checked_pixel(index[n], pixels);
  if (pixel < 0) return;
  // Whoever takes the place of another, or fails to, says that there are several.
  if (atomicMax(owner + pixel, 2 * (N - n)) != 0) atomicOr(owner + pixel, 1);
}

namespace {

// 0: row n is padding, or a row before it has its pixel; 1: no other has it; 2: rows after it have it as well. For
// whole warps, who look through the index where nobody has marked owners.
__device__ int ownership(const int64_t* index, const int32_t* owner, int64_t pixel, int n, int N) {
  if (pixel < 0) return 0;
  if (owner != nullptr) return owner[pixel] / 2 == N - n ? 1 + owner[pixel] % 2 : 0;
  bool before = false, after = false;
#pragma unroll 4
  for (int m = threadIdx.x % kWarp; m < N; m += kWarp) {
    const bool equal = index[m] == pixel;
    before |= equal && m < n, after |= equal && m > n;
  }
  return __any_sync(kAllLanes, before) ? 0 : __any_sync(kAllLanes, after) ? 2 : 1;
}

// The first row from m on with that pixel; N: none. For whole warps.
__device__ int next_row(const int64_t* index, int m, int N, int64_t pixel) {
  for (; m < N; m += kWarp) {
    const int mine = m + threadIdx.x % kWarp;
    const unsigned equal = __ballot_sync(kAllLanes, mine < N && index[mine] == pixel);
    if (equal != 0) return m + __ffs(equal) - 1;
  }
  return N;
}

template <typename scalar_t, int kVector>
struct Gradients {
  static constexpr int kStep = kWarp * kVector, kChunk = kSteps<kVector> * kStep;

  const scalar_t* d_rows;  // [N, D]
  const scalar_t* rows;    // [N, D]
  const float* inv_norm;   // [N]
  const int64_t* index;    // [N]
  int N, D;
  int64_t stride_n, stride_k;

  // sum += (g - (g.r) r) / |e| of row n, of the elements d0 + i * kStep + lane * kVector + j.
  __device__ void add(int n, int d0, float (&sum)[kSteps<kVector>][kVector]) const {
    const scalar_t *g = d_rows + int64_t{n} * stride_n, *r = rows + int64_t{n} * D;
    const int first = threadIdx.x % kWarp * kVector;
    scalar_t g_held[kSteps<kVector>][kVector] = {}, r_held[kSteps<kVector>][kVector] = {};
    float along = 0;
#pragma unroll
    for (int i = 0; i < kSteps<kVector>; ++i) {
      const int d = d0 + first + i * kStep;
      if (d < D) load(g + d * stride_k, g_held[i]);
      if (d < D) load(r + d, r_held[i]);
    }
#pragma unroll
    for (int i = 0; i < kSteps<kVector>; ++i) {
      for (int j = 0; j < kVector; ++j) along += to_float(g_held[i][j]) * to_float(r_held[i][j]);
    }
    for (int d = first; d < D; d += kStep) {  // of a wide row what is not held
      if (d >= d0 && d < d0 + kChunk) continue;
      scalar_t gs[kVector], rs[kVector];
      load(g + d * stride_k, gs);
      load(r + d, rs);
      for (int j = 0; j < kVector; ++j) along += to_float(gs[j]) * to_float(rs[j]);
    }
    along = warp_sum(along);
    const float inverse = inv_norm[n];
#pragma unroll
    for (int i = 0; i < kSteps<kVector>; ++i) {
      for (int j = 0; j < kVector; ++j)
        sum[i][j] += (to_float(g_held[i][j]) - along * to_float(r_held[i][j])) * inverse;
    }
  }

  // Calls write(d, x) with all elements of the gradient of a pixel, x[kVector] from d on: of its first row n and, if
  // there are several, those after it in their order. For whole warps.
  template <typename F>
  __device__ void for_each(int n, int64_t pixel, bool several, F&& write) const {
    for (int d0 = 0; d0 < D; d0 += kChunk) {
      float sum[kSteps<kVector>][kVector] = {};
      add(n, d0, sum);
      for (int m = several ? next_row(index, n + 1, N, pixel) : N; m < N; m = next_row(index, m + 1, N, pixel))
        add(m, d0, sum);
#pragma unroll
      for (int i = 0; i < kSteps<kVector>; ++i) {
        const int d = d0 + threadIdx.x % kWarp * kVector + i * kStep;
        scalar_t x[kVector];
        for (int j = 0; j < kVector; ++j) x[j] = from_float<scalar_t>(sum[i][j]);
        if (d < D) write(d, x);
      }
    }
  }
};

}  // namespace

template <typename scalar_t, int kVector>
__global__ void __launch_bounds__(kGatherThreads, 2)
    scatter_rows(const void* d_rows, const void* rows, const float* inv_norm, const int64_t* index,
                 const int32_t* owner, void* d_embeddings, int N, int64_t pixels, int D, int h, int w, int64_t stride_n,
                 int64_t stride_k, int64_t stride_b, int64_t stride_d, int64_t stride_h, int64_t stride_w) {
  const int n = blockIdx.x * kGatherWarps + threadIdx.x / kWarp;
  if (n >= N) return;
  const int64_t pixel = checked_pixel(index[n], pixels);
  const int owned = ownership(index, owner, pixel, n, N);
  if (owned == 0) return;
  scalar_t* to = static_cast<scalar_t*>(d_embeddings) + pixel_offset(pixel, h, w, stride_b, stride_h, stride_w);
  const Gradients<scalar_t, kVector> gradients{static_cast<const scalar_t*>(d_rows),
                                               static_cast<const scalar_t*>(rows),
                                               inv_norm,
                                               index,
                                               N,
                                               D,
                                               stride_n,
                                               stride_k};
  gradients.for_each(n, pixel, owned > 1, [&](int d, const scalar_t(&x)[kVector]) { store(to + d * stride_d, x); });
}

template <typename scalar_t, int kAnchors>
__global__ void __launch_bounds__(kGatherThreads, 2)
    scatter_planes(const void* d_rows, const void* rows, const float* inv_norm, const int64_t* index,
                   const int32_t* owner, void* d_embeddings, int N, int64_t pixels, int D, int h, int w,
                   int64_t stride_n, int64_t stride_k, int64_t stride_b, int64_t stride_d, int64_t stride_h,
                   int64_t stride_w, int pitch) {
  extern __shared__ int4 shared[];
  __shared__ bool writes[kAnchors];
  scalar_t* tile = reinterpret_cast<scalar_t*>(shared);  // [kAnchors, pitch]
  const int n0 = blockIdx.x * kAnchors;
  const Gradients<scalar_t, 1> gradients{static_cast<const scalar_t*>(d_rows),
                                         static_cast<const scalar_t*>(rows),
                                         inv_norm,
                                         index,
                                         N,
                                         D,
                                         stride_n,
                                         stride_k};
  for (int i = threadIdx.x / kWarp; i < kAnchors && n0 + i < N; i += kGatherWarps) {
    const int64_t pixel = checked_pixel(index[n0 + i], pixels);
    const int owned = ownership(index, owner, pixel, n0 + i, N);
    if (threadIdx.x % kWarp == 0) writes[i] = owned > 0;
    scalar_t* to = tile + i * pitch;
    if (owned > 0) gradients.for_each(n0 + i, pixel, owned > 1, [&](int d, const scalar_t(&x)[1]) { to[d] = x[0]; });
  }
  __syncthreads();
  constexpr int kStep = kGatherThreads / kAnchors;
  const int anchor = threadIdx.x % kAnchors;
  if (n0 + anchor >= N || !writes[anchor]) return;
  const int64_t pixel = index[n0 + anchor];
  const scalar_t* from = tile + anchor * pitch;
  scalar_t* to = static_cast<scalar_t*>(d_embeddings) + pixel_offset(pixel, h, w, stride_b, stride_h, stride_w);
#pragma unroll 4
  for (int d = threadIdx.x / kAnchors; d < D; d += kStep) to[d * stride_d] = from[d];
}

GatherRows gather_rows_kernel(Dtype dtype, bool vectors) {
  switch (dtype) {
    case Dtype::kBFloat16: return vectors ? &gather_rows<__nv_bfloat16, 8> : &gather_rows<__nv_bfloat16, 1>;
    case Dtype::kHalf: return vectors ? &gather_rows<__half, 8> : &gather_rows<__half, 1>;
    default: return vectors ? &gather_rows<float, 4> : &gather_rows<float, 1>;
  }
}

GatherPlanes gather_planes_kernel(Dtype dtype, int anchors) {
  const bool many = anchors == kManyAnchors;
  switch (dtype) {
    case Dtype::kBFloat16:
      return many ? &gather_planes<__nv_bfloat16, kManyAnchors> : &gather_planes<__nv_bfloat16, kFewAnchors>;
    case Dtype::kHalf: return many ? &gather_planes<__half, kManyAnchors> : &gather_planes<__half, kFewAnchors>;
    default: return many ? &gather_planes<float, kManyAnchors> : &gather_planes<float, kFewAnchors>;
  }
}

MarkOwners mark_owners_kernel() { return &mark_owners; }

ScatterRows scatter_rows_kernel(Dtype dtype, bool vectors) {
  switch (dtype) {
    case Dtype::kBFloat16: return vectors ? &scatter_rows<__nv_bfloat16, 8> : &scatter_rows<__nv_bfloat16, 1>;
    case Dtype::kHalf: return vectors ? &scatter_rows<__half, 8> : &scatter_rows<__half, 1>;
    default: return vectors ? &scatter_rows<float, 4> : &scatter_rows<float, 1>;
  }
}

ScatterPlanes scatter_planes_kernel(Dtype dtype, int anchors) {
  const bool many = anchors == kManyAnchors;
  switch (dtype) {
    case Dtype::kBFloat16:
      return many ? &scatter_planes<__nv_bfloat16, kManyAnchors> : &scatter_planes<__nv_bfloat16, kFewAnchors>;
    case Dtype::kHalf: return many ? &scatter_planes<__half, kManyAnchors> : &scatter_planes<__half, kFewAnchors>;
    default: return many ? &scatter_planes<float, kManyAnchors> : &scatter_planes<float, kFewAnchors>;
  }
}

}  // namespace fastpixcon
