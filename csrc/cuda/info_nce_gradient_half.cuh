// Gradients of rows of 16-bit numbers.
#pragma once

#include "cuda/gradient.cuh"
#include "cuda/gradient_tiles.cuh"

namespace fastpixcon {

using LargeTiles = half_tiles::Large;
using SmallTiles = half_tiles::Small;
using WideTiles = half_tiles::Wide;

template <typename scalar_t, Precision kPrecision, bool kFixed>
GradientLaunch gradient_launch_half(int row_bytes, int shared) {
  if (row_bytes > 1024) return {};
  if (row_bytes > 512) return gradient_launch<WideTiles, scalar_t, kPrecision, kFixed>(row_bytes);
  const GradientLaunch large = gradient_launch<LargeTiles, scalar_t, kPrecision, kFixed>(row_bytes);
  return large.shared <= shared ? large : gradient_launch<SmallTiles, scalar_t, kPrecision, kFixed>(row_bytes);
}

}  // namespace fastpixcon
