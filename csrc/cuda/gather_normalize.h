// Kernels of gather_normalize, for their host code.
#pragma once

#include <cstdint>

#include "cuda/dtype.h"

namespace fastpixcon {

using GatherNormalizeKernel = void (*)(const void* embeddings, const int64_t* index, void* rows, float* inv_norm,
                                       int64_t N, int64_t pixels, int D, int h, int w, int64_t stride_b,
                                       int64_t stride_d, int64_t stride_h, int64_t stride_w);
GatherNormalizeKernel gather_normalize_kernel(Dtype dtype);

}  // namespace fastpixcon
