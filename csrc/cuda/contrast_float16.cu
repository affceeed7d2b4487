#include "cuda/contrast_half.cuh"

namespace fastpixcon {

ContrastLaunch contrast_float16(int row_bytes, int shared, bool mined) {
  return contrast_launch_half<Precision::kHalf>(row_bytes, shared, mined);
}

}  // namespace fastpixcon
