// Kernels of memory_rows, for its host code. A segment is the pixels of a class in an image, image * K + class.
//
// 1. classes: every pixel's class, once;
// 2. segments: a block a segment lists its pixels and draws those of the smallest keys;
// 3. norms, region sums, regions: a block has a segment and kRegionChannels channels, and adds up in a fixed order.
#pragma once

#include <cstdint>

#include "cuda/dtype.h"

namespace fastpixcon {

constexpr int kMemoryThreads = 256, kRegionChannels = 32;

// classes [B, h * w]: -1 where a pixel does not count.
using MemoryClassesKernel = void (*)(const void* labels, int32_t* classes, int64_t pixels, int H, int W, int h, int w,
                                     int K, int64_t ignore_index, int integer, int64_t stride_b, int64_t stride_h,
                                     int64_t stride_w);
MemoryClassesKernel memory_classes_kernel();

// A block a segment. members [B, pixels]: of an image the pixels of each class, in order, class by class; begin, count
// [B, K]: where those of a segment are; drawn [B, K, P]: scratch; index [B, K, P]: of the map, or -1.
using MemorySegmentsKernel = void (*)(const int32_t* classes, const int64_t* seed, int32_t* members, int32_t* begin,
                                      int32_t* count, int64_t* drawn, int64_t* index, int32_t* pixel_labels,
                                      int32_t* region_labels, int K, int P, int pixels);
MemorySegmentsKernel memory_segments_kernel();

// inv_norms [B, h * w]. A warp a pixel if `channels` (channels lie close together), else a thread.
using MemoryNormsKernel = void (*)(const void* embeddings, float* inv_norms, int64_t pixels, int D, int h, int w,
                                   int64_t stride_b, int64_t stride_d, int64_t stride_h, int64_t stride_w);
MemoryNormsKernel memory_norms_kernel(Dtype dtype, bool channels);

// Blocks [segments, chunks of D]; sums [B, K, D].
using RegionSumsKernel = void (*)(const void* embeddings, const float* inv_norms, const int32_t* members,
                                  const int32_t* begin, const int32_t* count, float* sums, int K, int D, int h, int w,
                                  int64_t stride_b, int64_t stride_d, int64_t stride_h, int64_t stride_w);
RegionSumsKernel region_sums_kernel(Dtype dtype, bool channels);

// A warp a segment: sums as unit rows.
using RegionsKernel = void (*)(const float* sums, const int32_t* count, void* regions, int segments, int D);
RegionsKernel regions_kernel(Dtype dtype);

}  // namespace fastpixcon
