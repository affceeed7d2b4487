// The tiles of kernels that multiply weights of a tile with its columns, by the width of rows.
#pragma once

#include <type_traits>

#include "cuda/product.cuh"

namespace fastpixcon {

namespace half_tiles {
// D <= 256, 146 KiB: a warp takes 32 x 32 logits and 32 x 128 of the gradient, and reads 256 and 128 bytes of shared
// memory a product, of which an SM of sm_80 can give 256 in the time of its tensor cores.
using Large = GradientShape<128, 64, 4, 2, 4, 2, 8>;
using Small = GradientShape<64, 32, 2, 2, 2, 2, 8>;  // D <= 256, 70 KiB
using Wide = GradientShape<32, 32, 2, 2, 1, 4, 8>;   // D <= 512, 99 KiB
}  // namespace half_tiles

namespace halves_tiles {
// Of four bytes a number, for three products. Bytes of shared memory that a warp reads a product: of the gradient 128
// to 192, of the logits, which four warps make at most, 256, or 512 where tiles have 16 columns.
using Small = GradientShape<64, 32, 2, 2, 2, 2, 4>;   // D <= 128, 73 KiB
using Sweep = GradientShape<64, 32, 4, 1, 2, 4, 2>;   // the same, 8 warps: leaves sweeps more registers; whole rows
using Wide = GradientShape<32, 16, 2, 2, 1, 4, 4>;    // D <= 256, 67 KiB; with 64 rows it would spill
using Widest = GradientShape<16, 16, 1, 2, 1, 4, 8>;  // D <= 512, 98 KiB
}  // namespace halves_tiles

namespace float_tiles {
using Small = GradientShape<64, 32, 2, 2, 2, 2, 4>;   // D <= 128, 73 KiB
using Wide = GradientShape<16, 32, 1, 4, 1, 4, 4>;    // D <= 256, 83 KiB
using Widest = GradientShape<16, 16, 1, 2, 1, 4, 8>;  // D <= 512, 98 KiB
}  // namespace float_tiles

// Of sweeps over float32 rows, as their products take them.
template <Precision kPrecision, typename InHalves, typename Float>
using TilesOf = std::conditional_t<kPrecision == Precision::kHalfx3, InHalves, Float>;
template <Precision kPrecision>
using SmallOf = TilesOf<kPrecision, halves_tiles::Sweep, float_tiles::Small>;
template <Precision kPrecision>
using WideOf = TilesOf<kPrecision, halves_tiles::Wide, float_tiles::Wide>;
template <Precision kPrecision>
using WidestOf = TilesOf<kPrecision, halves_tiles::Widest, float_tiles::Widest>;

}  // namespace fastpixcon
