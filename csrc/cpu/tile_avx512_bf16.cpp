// The tile kernels for AVX512_BF16 products, AVX-512 for the rest: 12 x 32 sums in 24 of 32 registers.
#include "cpu/tile.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")
#endif

#define FASTPIXCON_TILE_BF16
#define FASTPIXCON_VECTOR_BYTES 64
#define FASTPIXCON_AVX512_MASKS
#define FASTPIXCON_TILE_ROWS 12
#define FASTPIXCON_TILE_VECTORS 2
#define FASTPIXCON_TILE_BLOCK 192
#define FASTPIXCON_TILE_KERNELS tile_kernels_avx512_bf16
#include "cpu/tile_kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
namespace fastpixcon::cpu {
const TileKernels& tile_kernels_avx512_bf16() { return tile_kernels_baseline(); }
}  // namespace fastpixcon::cpu
#endif
