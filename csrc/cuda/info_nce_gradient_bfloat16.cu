#include "cuda/info_nce_gradient_half.cuh"

namespace fastpixcon {

GradientLaunch info_nce_gradient_bfloat16(bool fixed, int row_bytes, int shared) {
  return fixed ? gradient_launch_half<__nv_bfloat16, Precision::kBFloat16, true>(row_bytes, shared)
               : gradient_launch_half<__nv_bfloat16, Precision::kBFloat16, false>(row_bytes, shared);
}

}  // namespace fastpixcon
