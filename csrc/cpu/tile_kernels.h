// The table of tile kernels of one instruction set, for the translation units tile_<isa>.cpp.
#include "cpu/tile.h"
#if defined(FASTPIXCON_TILE_AMX)
#include "cpu/tile_gemm_amx.h"
#elif defined(FASTPIXCON_TILE_BF16)
#include "cpu/tile_gemm_bf16.h"
#else
#include "cpu/tile_gemm.h"
#endif
#include "cpu/tile_histogram.h"
#include "cpu/tile_softmax.h"
#include "cpu/tile_weights.h"

namespace fastpixcon::cpu {

const TileKernels& FASTPIXCON_TILE_KERNELS() {
  static constexpr TileKernels kernels = {
      kBf16,          kLanes,          FASTPIXCON_TILE_BLOCK, pack_size,      pack,       ahead_of,
      logits,         add_rows,        add_columns,           sum_fixed,      sum_online, positives,
      gradient_fixed, gradient_online, weights_fixed,         weights_online, pulls,      add_few_weights,
      add_few_pulls,  count_cosines};
  return kernels;
}

}  // namespace fastpixcon::cpu
