#include "cuda/info_nce_gradient_half.cuh"

namespace fastpixcon {

GradientLaunch info_nce_gradient_float16(bool fixed, int row_bytes, int shared) {
  return fixed ? gradient_launch_half<__half, Precision::kHalf, true>(row_bytes, shared)
               : gradient_launch_half<__half, Precision::kHalf, false>(row_bytes, shared);
}

}  // namespace fastpixcon
