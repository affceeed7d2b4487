// The tile kernels for AVX2 and FMA: 6 x 16 floats in 12 of 16 registers.
#include "cpu/tile.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define FASTPIXCON_VECTOR_BYTES 32
#define FASTPIXCON_AVX2_MASKS
#define FASTPIXCON_TILE_ROWS 6
#define FASTPIXCON_TILE_VECTORS 2
#define FASTPIXCON_TILE_BLOCK 144
#define FASTPIXCON_TILE_KERNELS tile_kernels_avx2
#include "cpu/tile_kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
namespace fastpixcon::cpu {
const TileKernels& tile_kernels_avx2() { return tile_kernels_baseline(); }
}  // namespace fastpixcon::cpu
#endif
