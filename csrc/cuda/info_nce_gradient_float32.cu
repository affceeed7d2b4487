// Gradients of float32 rows, in TF32, in four TF32 products, and without tensor cores.
#include "cuda/gradient.cuh"
#include "cuda/gradient_tiles.cuh"

namespace fastpixcon {

template <Precision kPrecision, bool kFixed>
GradientLaunch gradient_launch_float32(int row_bytes) {
  if (row_bytes > 2048) return {};
  if (row_bytes > 1024) return gradient_launch<float_tiles::Widest, float, kPrecision, kFixed>(row_bytes);
  if (row_bytes > 512) return gradient_launch<float_tiles::Wide, float, kPrecision, kFixed>(row_bytes);
  return gradient_launch<float_tiles::Small, float, kPrecision, kFixed>(row_bytes);
}

GradientLaunch info_nce_gradient_float32(Precision precision, int row_bytes) {
  if (precision == Precision::kTf32) return gradient_launch_float32<Precision::kTf32, true>(row_bytes);
  if (precision == Precision::kTf32x4) return gradient_launch_float32<Precision::kTf32x4, true>(row_bytes);
  return gradient_launch_float32<Precision::kFloat, false>(row_bytes);
}

}  // namespace fastpixcon
