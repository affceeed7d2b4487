// The table of tile kernels of one instruction set, for the translation units tile_<isa>.cpp.
#include "cpu/tile.h"
#ifdef FASTPIXCON_TILE_AMX
#include "cpu/tile_gemm_amx.h"
#else
#include "cpu/tile_gemm.h"
#endif
#include "cpu/tile_softmax.h"

namespace fastpixcon {

const TileKernels& FASTPIXCON_TILE_KERNELS() {
  static constexpr TileKernels kernels = {
#ifdef FASTPIXCON_TILE_AMX
      true,
#else
      false,
#endif
      kLanes,    FASTPIXCON_TILE_BLOCK, pack_size,      pack, logits, add_rows, add_columns, sum_fixed, sum_online,
      positives, gradient_fixed,        gradient_online};
  return kernels;
}

}  // namespace fastpixcon
