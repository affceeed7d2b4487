#include "common/hash.h"
#include "cuda/classes.cuh"
#include "cuda/device_check.cuh"
#include "cuda/memory_rows.h"
#include "cuda/normalize.cuh"
#include "cuda/select_keys.cuh"

namespace fastpixcon {

__global__ void __launch_bounds__(kMemoryThreads)
    memory_classes(const __grid_constant__ LabelMap labels, int32_t* classes, int64_t pixels, int h, int w, int K,
                   int64_t ignore_index) {
  const int64_t at = int64_t{blockIdx.x} * kMemoryThreads + threadIdx.x;
  if (at >= pixels) return;
  const uint32_t size = h * w, b = at / size, q = at - int64_t{b} * size, y = q / w, x = q - y * w;
  const int64_t label = load_label(labels, b, nearest(y, labels.height, h), nearest(x, labels.width, w));
  const bool counted = label != ignore_index && label >= 0;
  FASTPIXCON_DEVICE_CHECK(!counted || label < K, "labels: a label is neither below num_classes nor ignore_index");
  classes[at] = counted ? static_cast<int32_t>(label) : -1;
}

__global__ void __launch_bounds__(kMemoryThreads)
    memory_segments(const int32_t* classes, const float* inv_norms, const int64_t* seed, int32_t* members,
                    int32_t* begin, int32_t* count, int32_t* units, int64_t* drawn, int64_t* index,
                    int32_t* pixel_labels, int K, int P, int pixels) {
  __shared__ KeySelection<1> selection;
  __shared__ int64_t warps[kMemoryThreads / kWarp];
  __shared__ int taken;
  constexpr int kPixels = 4;  // a thread
  const int segment = blockIdx.x, c = segment % K, tid = threadIdx.x;
  const int64_t image = static_cast<int64_t>(segment / K) * pixels;

  // Pixels of the classes before in the upper half, of this class in the lower one.
  int64_t mine = 0, both;
  for (int q = tid; q < pixels; q += kMemoryThreads) {
    const int32_t of = classes[image + q];
    mine += of == c ? 1 : of >= 0 && of < c ? int64_t{1} << 32 : 0;
  }
  if (tid == 0) taken = 0;
  block_exclusive_sum<kMemoryThreads>(mine, warps, both);
  const int n = static_cast<int>(both & 0xFFFFFFFF), first = static_cast<int>(both >> 32), wanted = min(n, P);
  if (tid == 0) {
    begin[segment] = first;
    count[segment] = n;
    units[segment] = 0;
  }
  const int64_t to = static_cast<int64_t>(segment) * P;
  for (int i = wanted + tid; i < P; i += kMemoryThreads) pixel_labels[to + i] = index[to + i] = -1;
  if (n == 0) return;

  int32_t* const own = members + image + first;  // [n]
  int64_t before = 0;                            // as `number`
  for (int q0 = 0; q0 < pixels; q0 += kMemoryThreads * kPixels) {
    const int q = q0 + tid * kPixels;
    bool is_own[kPixels];
    int64_t number = 0, sum;  // own pixels in the lower half, those of them with a direction in the upper one
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      is_own[i] = q + i < pixels && classes[image + q + i] == c;
      if (is_own[i]) number += inv_norms[image + q + i] == 0 ? 1 : 1 + (int64_t{1} << 32);
    }
    uint32_t place = static_cast<uint32_t>(before + block_exclusive_sum<kMemoryThreads>(number, warps, sum));
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      if (is_own[i]) own[place++] = q + i;
    }
    before += sum;
  }
  if (tid == 0) units[segment] = static_cast<int32_t>(before >> 32);
  __syncthreads();  // the pixels are listed

  const uint32_t upper = hash_upper(hash_key(*seed, kMemoryStream), 0);  // of fewer than 2^32 pixels
  const auto key_of_pixel = [&](int q) { return mix32(static_cast<uint32_t>(image + q) ^ upper); };
  uint32_t limit = ~0u;
  if (n > P) {
    const int count_of[1] = {P};
    select_keys<1, kMemoryThreads>(selection, count_of, [&](auto&& use) {
      for (int i = tid; i < n; i += kMemoryThreads) use(0, key_of_pixel(own[i]));
    });
    limit = selection.key[0];
  }
  int64_t* const candidates = drawn + to;  // [wanted], in any order
  for (int i = tid; i < n; i += kMemoryThreads) {
    const uint32_t key = key_of_pixel(own[i]);
    if (key <= limit) candidates[atomicAdd(&taken, 1)] = int64_t{key} << 32 | own[i];
  }
  __syncthreads();
  for (int i = tid; i < wanted; i += kMemoryThreads) {
    const uint64_t candidate = candidates[i];
    int rank = 0;  // no two are equal
    for (int k = 0; k < wanted; ++k) rank += static_cast<uint64_t>(candidates[k]) < candidate ? 1 : 0;
    const int64_t pixel = image + static_cast<uint32_t>(candidate);
    index[to + rank] = pixel;
    const float inv_norm = inv_norms[pixel];
    pixel_labels[to + rank] = inv_norm == 0 || isnan(inv_norm) ? -1 : c;
  }
}

namespace {

// The inverse norm of a row from the sums of its squares and of those scaled by 2^-192, should the former overflow; NaN
// of one that is not finite. A square that underflows is of a row that is too short to have a direction, or does not
// matter.
constexpr float kSmall = 0x1p-96f;
__device__ float inverse_norm(float sum, float small_sum) {
  const float norm = sqrtf(isinf(sum) ? small_sum : sum);
  if (!isfinite(norm)) return NAN;
  return norm < kMinNorm ? 0 : (isinf(sum) ? kSmall : 1.0f) / norm;
}

// A number of a unit row, not rounded as such rows are stored: sums may cancel.
template <typename scalar_t>
__device__ float unit(scalar_t x, float inv_norm) {
  return to_float(x) * inv_norm;
}

}  // namespace

template <typename scalar_t, bool kChannels>
__global__ void __launch_bounds__(kMemoryThreads)
    memory_norms(const void* embeddings, float* inv_norms, int64_t pixels, int D, int h, int w, int64_t stride_b,
                 int64_t stride_d, int64_t stride_h, int64_t stride_w) {
  constexpr int kLanes = kChannels ? kWarp : 1;
  const int64_t at = (int64_t{blockIdx.x} * kMemoryThreads + threadIdx.x) / kLanes;
  if (at >= pixels) return;
  const uint32_t size = h * w, b = at / size, q = at - int64_t{b} * size, y = q / w, x = q - y * w;
  const scalar_t* const pixel = static_cast<const scalar_t*>(embeddings) + b * stride_b + y * stride_h + x * stride_w;
  float sum = 0, small_sum = 0;
#pragma unroll 4
  for (int d = threadIdx.x % kLanes; d < D; d += kLanes) {
    const float value = to_float(pixel[d * stride_d]), scaled = value * kSmall;
    sum = fmaf(value, value, sum);
    small_sum = fmaf(scaled, scaled, small_sum);
  }
  if constexpr (kChannels) sum = warp_sum(sum), small_sum = warp_sum(small_sum);
  if (threadIdx.x % kLanes == 0) inv_norms[at] = inverse_norm(sum, small_sum);
}

template <typename scalar_t, bool kChannels>
__global__ void __launch_bounds__(kMemoryThreads, 4)  // left to itself, ptxas spills for a fifth
    region_sums(const void* embeddings, const float* inv_norms, const int32_t* members, const int32_t* begin,
                const int32_t* count, float* sums, int K, int D, int h, int w, int64_t stride_b, int64_t stride_d,
                int64_t stride_h, int64_t stride_w) {
  constexpr int kWarps = kMemoryThreads / kWarp, kEach = kRegionChannels / kWarps;
  __shared__ float parts[kWarps][kRegionChannels];
  const int segment = blockIdx.x, b = segment / K, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int n = count[segment], d0 = blockIdx.y * kRegionChannels;
  if (n == 0) return;
  const int64_t image = static_cast<int64_t>(b) * h * w;
  const int32_t* const own = members + image + begin[segment];  // [n]
  const scalar_t* const map = static_cast<const scalar_t*>(embeddings) + b * stride_b;
  float* const to = sums + static_cast<int64_t>(segment) * D + d0;
  const auto pixel_at = [&](int q) { return map + q / w * stride_h + q % w * stride_w; };
  if constexpr (kChannels) {  // lanes along channels, warps along pixels
    float sum = 0;
#pragma unroll 4
    for (int i = warp; i < n; i += kWarps) {
      const int q = own[i];
      if (d0 + lane < D) sum += unit(pixel_at(q)[(d0 + lane) * stride_d], inv_norms[image + q]);
    }
    parts[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || d0 + lane >= D) return;
    for (int i = 1; i < kWarps; ++i) sum += parts[i][lane];
    to[lane] = sum;
  } else {  // lanes along pixels, kEach channels a warp
    float part[kEach] = {};
#pragma unroll 2
    for (int i = lane; i < n; i += kWarp) {
      const int q = own[i];
      const float inv_norm = inv_norms[image + q];
      const scalar_t* const pixel = pixel_at(q);
#pragma unroll
      for (int k = 0; k < kEach; ++k) {
        const int d = d0 + warp * kEach + k;
        if (d < D) part[k] += unit(pixel[d * stride_d], inv_norm);
      }
    }
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const float sum = warp_sum(part[k]);
      const int d = warp * kEach + k;
      if (lane == 0 && d0 + d < D) to[d] = sum;
    }
  }
}

template <typename scalar_t>
__global__ void __launch_bounds__(kMemoryThreads) memory_regions(const float* sums, const int32_t* units, void* regions,
                                                                 int32_t* region_labels, int segments, int K, int D) {
  const int segment = (blockIdx.x * kMemoryThreads + threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
  if (segment >= segments) return;
  const int32_t n = units[segment];                                   // without one, there are no sums
  const float* const row = sums + static_cast<int64_t>(segment) * D;  // [D]
  scalar_t* const to = static_cast<scalar_t*>(regions) + static_cast<int64_t>(segment) * D;
  float sum = 0;
  for (int d = lane; n > 0 && d < D; d += kWarp) sum = fmaf(row[d], row[d], sum);
  const float norm = sqrtf(warp_sum(sum));
  const bool cancels = norm <= kMinMean * static_cast<float>(n);
  for (int d = lane; d < D; d += kWarp) to[d] = from_float<scalar_t>(cancels ? 0.0f : row[d] / norm);
  if (lane == 0) region_labels[segment] = cancels || isnan(norm) ? -1 : segment % K;
}

MemoryClassesKernel memory_classes_kernel() { return &memory_classes; }
MemorySegmentsKernel memory_segments_kernel() { return &memory_segments; }

MemoryNormsKernel memory_norms_kernel(Dtype dtype, bool channels) {
  switch (dtype) {
    case Dtype::kBFloat16: return channels ? &memory_norms<__nv_bfloat16, true> : &memory_norms<__nv_bfloat16, false>;
    case Dtype::kHalf: return channels ? &memory_norms<__half, true> : &memory_norms<__half, false>;
    default: return channels ? &memory_norms<float, true> : &memory_norms<float, false>;
  }
}

RegionSumsKernel region_sums_kernel(Dtype dtype, bool channels) {
  switch (dtype) {
    case Dtype::kBFloat16: return channels ? &region_sums<__nv_bfloat16, true> : &region_sums<__nv_bfloat16, false>;
    case Dtype::kHalf: return channels ? &region_sums<__half, true> : &region_sums<__half, false>;
    default: return channels ? &region_sums<float, true> : &region_sums<float, false>;
  }
}

RegionsKernel regions_kernel(Dtype dtype) {
  switch (dtype) {
    case Dtype::kBFloat16: return &memory_regions<__nv_bfloat16>;
    case Dtype::kHalf: return &memory_regions<__half>;
    default: return &memory_regions<float>;
  }
}

}  // namespace fastpixcon
