// The kernel of memory_enqueue_, for its host code.
#pragma once

#include <cstdint>

#include "cuda/dtype.h"

namespace fastpixcon {

constexpr int kEnqueueThreads = 256;

// A block for each class and ring, grid [K, 2]. bank [K, S, D], bank_labels [K, S], written [2, K] of any strides;
// pixels [P, D], regions [R, D] and their labels without gaps.
using EnqueueKernel = void (*)(void* bank, int32_t* bank_labels, int64_t* written, const void* pixels,
                               const int32_t* pixel_labels, const void* regions, const int32_t* region_labels, int S,
                               int D, int P, int R, int pixel_size, int pixels_dtype, int regions_dtype,
                               int64_t stride_c, int64_t stride_s, int64_t stride_d, int64_t stride_lc,
                               int64_t stride_ls, int64_t stride_wr, int64_t stride_wc);
EnqueueKernel enqueue_kernel(Dtype bank);

}  // namespace fastpixcon
