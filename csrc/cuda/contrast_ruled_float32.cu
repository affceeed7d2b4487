// Of float32 rows under a rule of pairs.
#include "cuda/contrast.cuh"
#include "cuda/gradient_tiles.cuh"

namespace fastpixcon {

template <Precision kPrecision>
ContrastLaunch contrast_launch_ruled(int row_bytes) {
  if (row_bytes > 2048) return {};
  if (row_bytes > 1024) return contrast_launch<WidestOf<kPrecision>, kPrecision, true>(row_bytes);
  if (row_bytes > 512) return contrast_launch<WideOf<kPrecision>, kPrecision, true>(row_bytes);
  return contrast_launch<SmallOf<kPrecision>, kPrecision, true>(row_bytes);
}

ContrastLaunch contrast_ruled_float32(Precision precision, int row_bytes) {
  switch (precision) {
    case Precision::kHalfx3: return contrast_launch_ruled<Precision::kHalfx3>(row_bytes);
    default: return contrast_launch_ruled<Precision::kFloat>(row_bytes);
  }
}

}  // namespace fastpixcon
