// The tile kernels for AMX with tiles in software: the same code, for tests.
#include "cpu/tile.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define FASTPIXCON_TILE_AMX
#define FASTPIXCON_AMX_EMULATED
#define FASTPIXCON_VECTOR_BYTES 64
#define FASTPIXCON_TILE_BLOCK 192
#define FASTPIXCON_TILE_KERNELS tile_kernels_amx_emulated
#include "cpu/tile_kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
namespace fastpixcon::cpu {
const TileKernels& tile_kernels_amx_emulated() { return tile_kernels_baseline(); }
}  // namespace fastpixcon::cpu
#endif

static const fastpixcon::cpu::EmulatedKernels registered(fastpixcon::cpu::Isa::kAmxEmulated,
                                                         fastpixcon::cpu::tile_kernels_amx_emulated);
