// Kernels of gather_normalize and its backward, for their host code. Two of each: for maps whose channels lie close
// together (channels_last) a warp takes a row, lanes along D; for the others a block takes some anchors, lanes along
// them, and turns rows and planes into each other in shared memory.
#pragma once

#include <cstdint>

#include "cuda/dtype.h"

namespace fastpixcon {

constexpr int kGatherThreads = 256;
constexpr int kGatherWarps = kGatherThreads / 32;
constexpr int kManyAnchors = 32, kFewAnchors = 8;  // of a block with lanes along anchors

// kGatherWarps rows a block. 16 bytes an access if `vectors`: rows of the map then begin at multiples of them.
using GatherRows = void (*)(const void* embeddings, const int64_t* index, void* rows, float* inv_norm, int64_t N,
                            int64_t pixels, int D, int h, int w, int64_t stride_b, int64_t stride_d, int64_t stride_h,
                            int64_t stride_w);
GatherRows gather_rows_kernel(Dtype dtype, bool vectors);

// kManyAnchors or kFewAnchors a block, which has shared memory for as many rows of `pitch` numbers.
using GatherPlanes = void (*)(const void* embeddings, const int64_t* index, void* rows, float* inv_norm, int64_t N,
                              int64_t pixels, int D, int h, int w, int64_t stride_b, int64_t stride_d, int64_t stride_h,
                              int64_t stride_w, int pitch);
GatherPlanes gather_planes_kernel(Dtype dtype, int anchors);

// owner [pixels], zeroed: of the rows n with a pixel the first one, as 2 * (N - n), odd if there are others.
using MarkOwners = void (*)(const int64_t* index, int32_t* owner, int N, int64_t pixels);
MarkOwners mark_owners_kernel();

// owner: as above; null: each row looks through the index itself, which for few costs less than marks.
constexpr int kMostUnmarked = 2048;
using ScatterRows = void (*)(const void* d_rows, const void* rows, const float* inv_norm, const int64_t* index,
                             const int32_t* owner, void* d_embeddings, int N, int64_t pixels, int D, int h, int w,
                             int64_t stride_n, int64_t stride_k, int64_t stride_b, int64_t stride_d, int64_t stride_h,
                             int64_t stride_w);
ScatterRows scatter_rows_kernel(Dtype dtype, bool vectors);

using ScatterPlanes = void (*)(const void* d_rows, const void* rows, const float* inv_norm, const int64_t* index,
                               const int32_t* owner, void* d_embeddings, int N, int64_t pixels, int D, int h, int w,
                               int64_t stride_n, int64_t stride_k, int64_t stride_b, int64_t stride_d, int64_t stride_h,
                               int64_t stride_w, int pitch);
ScatterPlanes scatter_planes_kernel(Dtype dtype, int anchors);

}  // namespace fastpixcon
