// Gradients of rows of 16-bit numbers.
#pragma once

#include "cuda/gradient.cuh"

namespace fastpixcon {

// D <= 256, 146 KiB: a warp takes 32 x 32 logits and 32 x 128 of the gradient, and reads 256 and 128 bytes of shared
// memory a product, of which an SM of sm_80 can give 256 in the time of its tensor cores.
using LargeTiles = GradientShape<128, 64, 4, 2, 4, 2, 8>;
using SmallTiles = GradientShape<64, 32, 2, 2, 2, 2, 8>;  // D <= 256, 70 KiB
using WideTiles = GradientShape<32, 32, 2, 2, 1, 4, 8>;   // D <= 512, 99 KiB

template <typename scalar_t, Precision kPrecision, bool kFixed>
GradientLaunch gradient_launch_half(int row_bytes, int shared) {
  if (row_bytes > 1024) return {};
  if (row_bytes > 512) return gradient_launch<WideTiles, scalar_t, kPrecision, kFixed>(row_bytes);
  const GradientLaunch large = gradient_launch<LargeTiles, scalar_t, kPrecision, kFixed>(row_bytes);
  return large.shared <= shared ? large : gradient_launch<SmallTiles, scalar_t, kPrecision, kFixed>(row_bytes);
}

}  // namespace fastpixcon
