// Of float32 rows, in halves, in TF32 and in four TF32 products.
#include "cuda/contrast.cuh"
#include "cuda/gradient_tiles.cuh"

namespace fastpixcon {

template <Precision kPrecision>
ContrastLaunch contrast_launch_float32(int row_bytes) {
  if (row_bytes > 2048) return {};
  if (row_bytes > 1024) return contrast_launch<WidestOf<kPrecision>, kPrecision>(row_bytes);
  if (row_bytes > 512) return contrast_launch<WideOf<kPrecision>, kPrecision>(row_bytes);
  return contrast_launch<SmallOf<kPrecision>, kPrecision>(row_bytes);
}

ContrastLaunch contrast_float32(Precision precision, int row_bytes) {
  switch (precision) {
    case Precision::kHalfx3: return contrast_launch_float32<Precision::kHalfx3>(row_bytes);
    case Precision::kTf32: return contrast_launch_float32<Precision::kTf32>(row_bytes);
    default: return contrast_launch_float32<Precision::kTf32x4>(row_bytes);
  }
}

}  // namespace fastpixcon
