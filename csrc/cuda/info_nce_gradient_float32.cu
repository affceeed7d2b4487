// Gradients of float32 rows, in TF32, in four TF32 products, and without tensor cores.
#include "cuda/gradient.cuh"

namespace fastpixcon {

using SmallTiles = GradientShape<64, 32, 2, 2, 2, 2, 4>;   // D <= 128, 73 KiB
using WideTiles = GradientShape<16, 32, 1, 4, 1, 4, 4>;    // D <= 256, 83 KiB
using WidestTiles = GradientShape<16, 16, 1, 2, 1, 4, 8>;  // D <= 512, 98 KiB

template <Precision kPrecision, bool kFixed>
GradientLaunch gradient_launch_float32(int row_bytes) {
  if (row_bytes > 2048) return {};
  if (row_bytes > 1024) return gradient_launch<WidestTiles, float, kPrecision, kFixed>(row_bytes);
  if (row_bytes > 512) return gradient_launch<WideTiles, float, kPrecision, kFixed>(row_bytes);
  return gradient_launch<SmallTiles, float, kPrecision, kFixed>(row_bytes);
}

GradientLaunch info_nce_gradient_float32(Precision precision, int row_bytes) {
  if (precision == Precision::kTf32) return gradient_launch_float32<Precision::kTf32, true>(row_bytes);
  if (precision == Precision::kTf32x4) return gradient_launch_float32<Precision::kTf32x4, true>(row_bytes);
  return gradient_launch_float32<Precision::kFloat, false>(row_bytes);
}

}  // namespace fastpixcon
