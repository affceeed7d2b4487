// The table of tile kernels of one instruction set, for the translation units tile_<isa>.cpp.
#include "cpu/tile.h"
#include "cpu/tile_gemm.h"
#include "cpu/tile_softmax.h"

namespace fastpixcon {

const TileKernels& FASTPIXCON_TILE_KERNELS() {
  static constexpr TileKernels kernels = {kLanes,    FASTPIXCON_TILE_BLOCK, pack,           logits,
                                          add_rows,  add_columns,           sum_fixed,      sum_online,
                                          positives, gradient_fixed,        gradient_online};
  return kernels;
}

}  // namespace fastpixcon
