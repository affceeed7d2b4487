// The tile kernels for AMX bfloat16 products, AVX-512 for the rest.
#include "cpu/tile.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")
#endif

#define FASTPIXCON_TILE_AMX
#define FASTPIXCON_VECTOR_BYTES 64
#define FASTPIXCON_AVX512_MASKS
#define FASTPIXCON_TILE_BLOCK 192
#define FASTPIXCON_TILE_KERNELS tile_kernels_amx
#include "cpu/tile_kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
namespace fastpixcon::cpu {
const TileKernels& tile_kernels_amx() { return tile_kernels_baseline(); }
}  // namespace fastpixcon::cpu
#endif
