// Kernels of memory_rows, for its host code. A segment is the pixels of a class in an image, image * K + class.
//
// 1. classes: every pixel's class, once; norms: its inverse norm;
// 2. segments: a block a segment lists its pixels and draws those of the smallest keys;
// 3. region sums, regions: a block has a segment and kRegionChannels channels, and adds up in a fixed order.
#pragma once

#include <cstdint>

#include "cuda/dtype.h"
#include "cuda/values.h"

namespace fastpixcon {

constexpr int kMemoryThreads = 256, kRegionChannels = 32;
constexpr float kMinMean = 0x1p-16f;  // a shorter mean of unit rows has no direction

// classes [B, h * w]: -1 where a pixel does not count.
using MemoryClassesKernel = void (*)(LabelMap labels, int32_t* classes, int64_t pixels, int h, int w, int K,
                                     int64_t ignore_index);
MemoryClassesKernel memory_classes_kernel();

// A block a segment. members [B, pixels]: of an image the pixels of each class, in order, class by class; begin, count
// [B, K]: where those of a segment are; units [B, K]: how many of them have a direction; drawn [B, K, P]: scratch;
// index [B, K, P]: of the map, or -1.
using MemorySegmentsKernel = void (*)(const int32_t* classes, const float* inv_norms, const int64_t* seed,
                                      int32_t* members, int32_t* begin, int32_t* count, int32_t* units, int64_t* drawn,
                                      int64_t* index, int32_t* pixel_labels, int K, int P, int pixels);
MemorySegmentsKernel memory_segments_kernel();

// inv_norms [B, h * w]: 0 without direction, NaN if not finite. A warp a pixel if `channels` (channels lie close
// together), else a thread.
using MemoryNormsKernel = void (*)(const void* embeddings, float* inv_norms, int64_t pixels, int D, int h, int w,
                                   int64_t stride_b, int64_t stride_d, int64_t stride_h, int64_t stride_w);
MemoryNormsKernel memory_norms_kernel(Dtype dtype, bool channels);

// Blocks [segments, chunks of D]; sums [B, K, D].
using RegionSumsKernel = void (*)(const void* embeddings, const float* inv_norms, const int32_t* members,
                                  const int32_t* begin, const int32_t* count, float* sums, int K, int D, int h, int w,
                                  int64_t stride_b, int64_t stride_d, int64_t stride_h, int64_t stride_w);
RegionSumsKernel region_sums_kernel(Dtype dtype, bool channels);

// A warp a segment: sums as unit rows, zeros of those that cancel; label -1 of these and of those that are not finite.
using RegionsKernel = void (*)(const float* sums, const int32_t* units, void* regions, int32_t* region_labels,
                               int segments, int K, int D);
RegionsKernel regions_kernel(Dtype dtype);

}  // namespace fastpixcon
