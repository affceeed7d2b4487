#include "cuda/contrast_half.cuh"

namespace fastpixcon {

ContrastLaunch contrast_bfloat16(int row_bytes, int shared, bool mined) {
  return contrast_launch_half<Precision::kBFloat16>(row_bytes, shared, mined);
}

}  // namespace fastpixcon
