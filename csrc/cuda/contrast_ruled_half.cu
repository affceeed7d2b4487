// Of rows of 16-bit numbers, under a rule of pairs: tiles that leave registers for it.
#include "cuda/contrast.cuh"
#include "cuda/gradient_tiles.cuh"

namespace fastpixcon {

template <Precision kPrecision>
ContrastLaunch contrast_launch_ruled(int row_bytes) {
  if (row_bytes > 1024) return {};
  return row_bytes > 512 ? contrast_launch<half_tiles::Wide, kPrecision, true>(row_bytes)
                         : contrast_launch<half_tiles::Small, kPrecision, true>(row_bytes);
}

ContrastLaunch contrast_ruled_half(Precision precision, int row_bytes) {
  return precision == Precision::kHalf ? contrast_launch_ruled<Precision::kHalf>(row_bytes)
                                       : contrast_launch_ruled<Precision::kBFloat16>(row_bytes);
}

}  // namespace fastpixcon
