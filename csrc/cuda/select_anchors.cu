#include "common/hash.h"
#include "cuda/classes.cuh"
#include "cuda/device_check.cuh"
#include "cuda/select_anchors.h"
#include "cuda/select_keys.cuh"

namespace fastpixcon {
namespace {

// Logits of kCodesThreads pixels, side by side, into shared memory.
template <typename scalar_t>
__device__ void copy_pixels(const scalar_t* from, int count, bool is_aligned, scalar_t* to) {
  constexpr int kVector = kVectorOf<scalar_t>;
  const int vectors = is_aligned ? count / kVector : 0;
  for (int i = threadIdx.x; i < vectors; i += kCodesThreads)
    reinterpret_cast<int4*>(to)[i] = __ldg(reinterpret_cast<const int4*>(from) + i);
  for (int i = vectors * kVector + threadIdx.x; i < count; i += kCodesThreads) to[i] = from[i];
}

// Adds one to the counter of every lane; -1: to none. The lanes of a counter add once together, as neighbouring pixels
// are mostly of one class.
__device__ void count(int32_t* counters, int at) {
  const unsigned together = __match_any_sync(kAllLanes, at);
  if (at >= 0 && __ffs(together) - 1 == threadIdx.x % kWarp) atomicAdd(counters + at, __popc(together));
}

}  // namespace

template <typename scalar_t, Predictions kPredictions>
__global__ void __launch_bounds__(kCodesThreads, 8)
    codes(const __grid_constant__ LabelMap labels, const __grid_constant__ LabelMap predictions, int64_t stride_k,
          int32_t* codes, int32_t* counts, int B, int K, int64_t ignore_index, int blocks, int bins, bool is_aligned) {
  extern __shared__ int4 shared[];
  int32_t* histogram = reinterpret_cast<int32_t*>(shared);                // [bins]
  scalar_t* tile = reinterpret_cast<scalar_t*>(shared + (bins + 3) / 4);  // [kCodesThreads, K]
  constexpr int kPixels = kPredictions == Predictions::kPlanes ? kVectorOf<scalar_t> : 1;
  constexpr int kStep = kCodesThreads * kPixels;
  for (int i = threadIdx.x; i < bins; i += kCodesThreads) histogram[i] = 0;
  __syncthreads();

  const int b = blockIdx.x / blocks, h = predictions.height, w = predictions.width;
  const uint32_t pixels = h * w;
  const scalar_t* image = static_cast<const scalar_t*>(predictions.labels) + b * predictions.stride_b;
  for (uint32_t q0 = blockIdx.x % blocks * kStep; q0 < pixels; q0 += blocks * kStep) {
    const uint32_t q = q0 + threadIdx.x * kPixels;  // the first pixel of the thread: of planes, all or none are there
    const bool here = q < pixels;
    int predicted[kPixels] = {};
    if constexpr (kPredictions == Predictions::kPixels) {
      __syncthreads();
      copy_pixels(image + int64_t{q0} * K, min(pixels - q0, kCodesThreads) * K, is_aligned, tile);
      __syncthreads();
      if (here) predicted[0] = argmax_shared(tile + threadIdx.x * K, K);
    } else if constexpr (kPredictions == Predictions::kPlanes) {
      if (here) argmax(image + q, stride_k, K, predicted);
    } else if constexpr (kPredictions == Predictions::kLogits) {
      if (here) argmax(image + q / w * predictions.stride_h + q % w * predictions.stride_w, stride_k, K, predicted);
    } else if (here) {
      const int64_t value = load_label(predictions, b, q / w, q % w);
      predicted[0] = value >= 0 && value < K ? static_cast<int>(value) : -1;
    }
    int group[kPixels];
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      int pair = -1;  // 2 * class + easy
      if (here) {
        const uint32_t y = (q + i) / w, x = (q + i) - y * w;
        const int64_t label = load_label(labels, b, nearest(y, labels.height, h), nearest(x, labels.width, w));
        const bool counted = label != ignore_index && label >= 0;
        FASTPIXCON_DEVICE_CHECK(!counted || label < K, "labels: a label is neither below num_classes nor ignore_index");
        if (counted) pair = 2 * static_cast<int>(label) + (predicted[i] == label ? 1 : 0);
      }
      group[i] = pair < 0 ? -1 : 2 * (pair / 2 * B + b) + pair % 2;
      if (bins > 0) {
        count(histogram, pair);
      } else {
        count(counts, group[i]);
      }
    }
    if (here) store_all(codes + b * int64_t{pixels} + q, group);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < bins; i += kCodesThreads) {
    if (histogram[i] > 0) atomicAdd(counts + 2 * (i / 2 * B + b) + i % 2, histogram[i]);
  }
}

namespace {

// Candidates that a group asks for which keeps so many, of keys that are uniform.
__device__ float wanted_candidates(int keep) { return keep + kSlack * sqrtf(keep) + 2 * kSlack; }

// How many it has room for: six standard deviations more. most_candidates() of the host code is their bound.
__device__ int room(int keep) {
  const float wanted = wanted_candidates(keep);
  return keep > 0 ? static_cast<int>(wanted + 6 * sqrtf(wanted) + 16) : 0;
}

// So large that hardly ever fewer than `keep` of `count` keys are smaller.
__device__ uint32_t limit_of(int keep, int count) {
  const float share = wanted_candidates(keep) / count;
  return keep == 0 ? 0 : share < 0.999f ? static_cast<uint32_t>(share * 4294967296.0f) : ~0u;
}

}  // namespace

__global__ void __launch_bounds__(kChooseThreads, 1)
    choose(const int32_t* counts, const int64_t* seed, int32_t* keep, uint32_t* limit, int32_t* begin, int32_t* offset,
           int64_t* index, int32_t* label, int32_t* total, int32_t* taken, int segments, int B, int max_samples,
           int max_views, int min_pixels) {
  __shared__ KeySelection<1> selection;
  __shared__ int64_t warps[kChooseThreads / kWarp];
  const auto pixels = [&](int segment, int easy) { return counts[2 * segment + easy]; };
  const auto is_eligible = [&](int segment) { return pixels(segment, 0) + pixels(segment, 1) >= min_pixels; };
  const uint32_t key = hash_key(*seed, kSegmentStream);

  int64_t mine = 0, eligible;
  for (int s = threadIdx.x; s < segments; s += kChooseThreads) mine += is_eligible(s) ? 1 : 0;
  block_exclusive_sum<kChooseThreads>(mine, warps, eligible);
  const int most = max(min(max_samples / max(static_cast<int>(eligible), 1), max_views), 1);

  const bool draws = eligible > max_samples;  // more segments than samples: those of the smallest keys
  if (draws) {
    const int wanted[1] = {max_samples};
    select_keys<1, kChooseThreads>(selection, wanted, [&](auto&& use) {
      for (int s = threadIdx.x; s < segments; s += kChooseThreads) {
        if (is_eligible(s)) use(0, hash32(key, s));
      }
    });
  }

  // Of the segments before those that the threads have: rooms, and the pixels kept in the upper half.
  int64_t before = 0;
  for (int s0 = 0; s0 < segments; s0 += kChooseThreads) {
    const int s = s0 + threadIdx.x;
    const bool here = s < segments;
    const int hard = here ? pixels(s, 0) : 0, easy = here ? pixels(s, 1) : 0;
    const bool kept = here && is_eligible(s) && (!draws || hash32(key, s) <= selection.key[0]);
    const int views = kept ? min(most, hard + easy) : 0;
    const int keep_hard = 2 * int64_t{hard} < views ? hard : 2 * int64_t{easy} < views ? views - easy : views / 2;
    const int keep_easy = views - keep_hard;
    const int room_hard = room(keep_hard), rooms = room_hard + room(keep_easy);
    int64_t sum;
    const int64_t at = before + block_exclusive_sum<kChooseThreads>((int64_t{views} << 32) + rooms, warps, sum);
    before += sum;
    if (!here) continue;
    if (hard + easy > 0) atomicAdd(taken + (kept ? 0 : segments / B) + s / B, 1);
    offset[s] = static_cast<int32_t>(at >> 32);
    begin[2 * s] = static_cast<int32_t>(at);
    begin[2 * s + 1] = static_cast<int32_t>(at) + room_hard;
    keep[2 * s] = keep_hard;
    keep[2 * s + 1] = keep_easy;
    limit[2 * s] = limit_of(keep_hard, hard);
    limit[2 * s + 1] = limit_of(keep_easy, easy);
  }
  const int written = static_cast<int>(before >> 32);
  if (threadIdx.x == 0) {
    begin[2 * segments] = static_cast<int32_t>(before);
    *total = written;
  }
  for (int i = written + threadIdx.x; i < max_samples; i += kChooseThreads) {
    index[i] = -1;
    label[i] = -1;
  }
}

__global__ void __launch_bounds__(kCollectThreads)
    collect(const int32_t* codes, const int64_t* seed, const uint32_t* limit, const int32_t* begin, int32_t* found,
            uint32_t* candidates, int64_t pixels) {
  const uint32_t upper = hash_upper(hash_key(*seed), 0);  // of the words above the lower 32 bits, which are zero
  const int64_t first = (int64_t(blockIdx.x) * kCollectThreads + threadIdx.x) * kCollectPixels;
  int code[kCollectPixels] = {-1, -1, -1, -1};
  if (first + kCollectPixels <= pixels) {
    load(codes + first, code);
  } else {
    for (int i = 0; i < kCollectPixels && first + i < pixels; ++i) code[i] = codes[first + i];
  }
#pragma unroll
  for (int i = 0; i < kCollectPixels; ++i) {
    if (code[i] < 0) continue;
    const uint32_t pixel = static_cast<uint32_t>(first + i);
    if (mix32(pixel ^ upper) >= limit[code[i]]) continue;
    const int place = begin[code[i]] + atomicAdd(found + code[i], 1);
    if (place < begin[code[i] + 1]) candidates[place] = pixel;
  }
}

namespace {

// Sorts values [count], a power of two, in shared memory.
__device__ void bitonic_sort(uint32_t* values, int count) {
  for (int length = 2; length <= count; length *= 2) {
    for (int step = length / 2; step > 0; step /= 2) {
      for (int i = threadIdx.x; i < count / 2; i += kDrawThreads) {
        const int low = i / step * 2 * step + i % step, high = low + step;
        const uint32_t a = values[low], b = values[high];
        const bool ascending = (low & length) == 0;
        if ((a > b) == ascending) {
          values[low] = b;
          values[high] = a;
        }
      }
      __syncthreads();
    }
  }
}

}  // namespace

__global__ void __launch_bounds__(kDrawThreads, 4)
    draw(const int32_t* codes, const int64_t* seed, const int32_t* keep, const int32_t* begin, const int32_t* offset,
         const int32_t* found, const uint32_t* candidates, int64_t* index, int32_t* label, int B, int pixels) {
  __shared__ KeySelection<2> selection;
  __shared__ uint32_t sorted[kMostSorted];
  __shared__ int warps[kDrawThreads / kWarp];
  __shared__ int taken;
  const int segment = blockIdx.x, group = 2 * segment;
  const int wanted[2] = {keep[group], keep[group + 1]};  // hard, easy
  const int views = wanted[0] + wanted[1];
  if (views == 0) return;
  const uint32_t upper = hash_upper(hash_key(*seed), 0);
  const int at[3] = {begin[group], begin[group + 1], begin[group + 2]};
  const int count[2] = {found[group], found[group + 1]};
  bool complete = true;
  for (int g = 0; g < 2; ++g) complete = complete && count[g] >= wanted[g] && count[g] <= at[g + 1] - at[g];

  const int32_t* image = codes + segment % B * int64_t{pixels};
  const uint32_t first = segment % B * static_cast<uint32_t>(pixels);
  const auto visit = [&](auto&& use) {  // use(0 for hard or 1 for easy, key, pixel)
    if (complete) {
      for (int i = threadIdx.x; i < count[0] + count[1]; i += kDrawThreads) {
        const int easy = i < count[0] ? 0 : 1;
        const uint32_t pixel = candidates[easy == 0 ? at[0] + i : at[1] + i - count[0]];
        use(easy, mix32(pixel ^ upper), pixel);
      }
    } else {
      for (uint32_t q = threadIdx.x; q < pixels; q += kDrawThreads) {
        const int easy = image[q] - group;
        if (easy == 0 || easy == 1) use(easy, mix32((first + q) ^ upper), first + q);
      }
    }
  };
  select_keys<2, kDrawThreads>(selection, wanted,
                               [&](auto&& use) { visit([&](int easy, uint32_t key, uint32_t) { use(easy, key); }); });
  const int64_t up_to_hard = wanted[0] > 0 ? selection.key[0] : int64_t{-1};
  const int64_t up_to_easy = wanted[1] > 0 ? selection.key[1] : int64_t{-1};
  const auto is_kept = [&](int easy, uint32_t key) { return key <= (easy == 0 ? up_to_hard : up_to_easy); };

  int64_t* to = index + offset[segment];
  for (int i = threadIdx.x; i < views; i += kDrawThreads) label[offset[segment] + i] = segment / B;
  if (views <= kMostSorted) {
    int power = 1;
    while (power < views) power *= 2;
    if (threadIdx.x == 0) taken = 0;
    for (int i = views + threadIdx.x; i < power; i += kDrawThreads) sorted[i] = ~0u;
    __syncthreads();
    visit([&](int easy, uint32_t key, uint32_t pixel) {
      if (is_kept(easy, key)) sorted[atomicAdd(&taken, 1)] = pixel;
    });
    __syncthreads();
    bitonic_sort(sorted, power);
    for (int i = threadIdx.x; i < views; i += kDrawThreads) to[i] = sorted[i];
    return;
  }
  constexpr int kPixels = 4;  // a thread
  for (uint32_t q0 = 0; q0 < pixels; q0 += kDrawThreads * kPixels) {
    bool kept[kPixels];
    int mine = 0, sum;
    const uint32_t q = q0 + threadIdx.x * kPixels;
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      const int easy = q + i < pixels ? image[q + i] - group : -1;
      kept[i] = (easy == 0 || easy == 1) && is_kept(easy, mix32((first + q + i) ^ upper));
      mine += kept[i] ? 1 : 0;
    }
    int place = block_exclusive_sum<kDrawThreads>(mine, warps, sum);
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      if (kept[i]) to[place++] = first + q + i;
    }
    to += sum;
  }
}

CodesKernel codes_kernel(Predictions predictions, Logits logits) {
  const auto of = [&](auto number) -> CodesKernel {
    using scalar_t = decltype(number);
    switch (predictions) {
      case Predictions::kPlanes: return &codes<scalar_t, Predictions::kPlanes>;
      case Predictions::kPixels: return &codes<scalar_t, Predictions::kPixels>;
      default: return &codes<scalar_t, Predictions::kLogits>;
    }
  };
  if (predictions == Predictions::kClasses) return &codes<char, Predictions::kClasses>;
  switch (logits) {
    case Logits::kBFloat16: return of(__nv_bfloat16{});
    case Logits::kHalf: return of(__half{});
    case Logits::kDouble: return of(double{});
    default: return of(float{});
  }
}

ChooseKernel choose_kernel() { return &choose; }
CollectKernel collect_kernel() { return &collect; }
DrawKernel draw_kernel() { return &draw; }

}  // namespace fastpixcon
