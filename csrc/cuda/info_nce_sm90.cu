// For sm_90a alone; without kernels where setup.py builds for no such device.
#include "cuda/info_nce_sm90.h"

#ifdef FASTPIXCON_SM90A
#include "cuda/gradient_sm90.cuh"
#include "cuda/sums_sm90.cuh"

namespace fastpixcon {

__global__ void __launch_bounds__(kPanelsThreads)
    info_nce_panels_sm90(const void* rows_, const int32_t* labels, const float* terms, void* panels_, float* facts,
                         int N, int N_pad, int row_bytes, int columns) {
  constexpr int kPieces = kPanel / kPiece;
  const int pieces = row_bytes / kPiece, rows = kPanelsThreads / pieces;  // of a row, of a block
  const int n = blockIdx.x * rows + threadIdx.x / pieces, piece = threadIdx.x % pieces;
  if (n < N_pad) {
    const uint4* const x = static_cast<const uint4*>(rows_) + static_cast<int64_t>(n) * pieces;
    char* const panel = static_cast<char*>(panels_) + static_cast<int64_t>(piece / kPieces) * N_pad * kPanel;
    char* const eight = panel + static_cast<int64_t>(n & ~7) * kPanel;  // rows, over which a swizzle goes
    *reinterpret_cast<uint4*>(eight + piece_at(n & 7, piece % kPieces)) = n < N && labels[n] != -1 ? x[piece] : uint4{};
  }

  const int i = blockIdx.x * rows + threadIdx.x % rows, which = threadIdx.x / rows, tile = i / columns;
  if (which >= kFactsOfColumn || tile >= (N + columns - 1) / columns) return;
  const int32_t label = i < N ? labels[i] : -1;
  float fact = __int_as_float(label);
  if (which > 0) fact = label != -1 && terms != nullptr ? terms[(which - 1) * static_cast<int64_t>(N) + i] : 0;
  facts[(static_cast<int64_t>(tile) * kFactsOfColumn + which) * columns + i % columns] = fact;
}

InfoNCEPanelsKernel info_nce_panels_kernel() { return &info_nce_panels_sm90; }

template <typename Tiles>
GradientSm90Launch launch_of(Precision precision) {
  return {precision == Precision::kBFloat16 ? &info_nce_gradient_sm90<Tiles, __nv_bfloat16, Precision::kBFloat16>
                                            : &info_nce_gradient_sm90<Tiles, __half, Precision::kHalf>,
          Tiles::kRows, Tiles::kColumns, Tiles::kThreads, sizeof(Tiles)};
}

GradientSm90Launch info_nce_gradient_sm90(Precision precision, int row_bytes) {
  if (!is_half(precision)) return {};
  switch (row_bytes) {
    case 128: return launch_of<WarpgroupTiles<64, 128, 4>>(precision);   // 89 KiB
    case 256: return launch_of<WarpgroupTiles<128, 128, 4>>(precision);  // 169 KiB
    case 512: return launch_of<WarpgroupTiles<256, 96, 3>>(precision);   // 213 KiB
    default: return {};
  }
}

template <typename Tiles>
SumsSm90Launch sums_launch_of(Precision precision) {
  return {precision == Precision::kBFloat16 ? &info_nce_sums_sm90<Tiles, Precision::kBFloat16>
                                            : &info_nce_sums_sm90<Tiles, Precision::kHalf>,
          Tiles::kRows,
          Tiles::kColumns,
          Tiles::kThreads,
          Tiles::kGroups,
          sizeof(Tiles)};
}

SumsSm90Launch info_nce_sums_sm90(Precision precision, int row_bytes) {
  if (!is_half(precision)) return {};
  switch (row_bytes) {
    case 128: return sums_launch_of<SumTiles<64, 4>>(precision);   // 84 KiB
    case 256: return sums_launch_of<SumTiles<128, 4>>(precision);  // 155 KiB
    case 512: return sums_launch_of<SumTiles<256, 2>>(precision);  // 203 KiB
    default: return {};
  }
}

}  // namespace fastpixcon
#else

namespace fastpixcon {

InfoNCEPanelsKernel info_nce_panels_kernel() { return nullptr; }
GradientSm90Launch info_nce_gradient_sm90(Precision, int) { return {}; }
SumsSm90Launch info_nce_sums_sm90(Precision, int) { return {}; }

}  // namespace fastpixcon
#endif
