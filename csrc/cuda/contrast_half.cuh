// Of rows of 16-bit numbers, the tiles of info_nce's gradient.
#pragma once

#include "cuda/contrast.cuh"
#include "cuda/gradient_tiles.cuh"

namespace fastpixcon {

template <Precision kPrecision>
ContrastLaunch contrast_launch_half(int row_bytes, int shared, bool mined) {
  if (row_bytes > 1024) return {};
  if (row_bytes > 512) return contrast_launch<half_tiles::Wide, kPrecision>(row_bytes);
  const ContrastLaunch large = contrast_launch<half_tiles::Large, kPrecision>(row_bytes);
  return large.shared <= shared && !mined ? large : contrast_launch<half_tiles::Small, kPrecision>(row_bytes);
}

}  // namespace fastpixcon
