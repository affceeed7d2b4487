// Of rows of 16-bit numbers, under a rule of pairs.
#include "cuda/contrast.cuh"
#include "cuda/gradient_tiles.cuh"

namespace fastpixcon {

// D <= 256, 105 KiB: Large with half the columns, which leaves registers for a rule, but none for mining.
using Tall = GradientShape<128, 32, 4, 2, 4, 2, 8>;

template <Precision kPrecision>
ContrastLaunch contrast_launch_ruled(int row_bytes, int shared, bool mined) {
  if (row_bytes > 1024) return {};
  if (row_bytes > 512) return contrast_launch<half_tiles::Wide, kPrecision, true>(row_bytes);
  const ContrastLaunch tall = contrast_launch<Tall, kPrecision, true>(row_bytes);
  return tall.shared <= shared && !mined ? tall : contrast_launch<half_tiles::Small, kPrecision, true>(row_bytes);
}

ContrastLaunch contrast_ruled_half(Precision precision, int row_bytes, int shared, bool mined) {
  return precision == Precision::kHalf ? contrast_launch_ruled<Precision::kHalf>(row_bytes, shared, mined)
                                       : contrast_launch_ruled<Precision::kBFloat16>(row_bytes, shared, mined);
}

}  // namespace fastpixcon
