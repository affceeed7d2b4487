// The forward's loop: a block of 64 or 128 rows against tiles of 128 rows, panel by panel.
//
// A warp for 32 rows by 64 columns, or by 32 of numbers in two halves, whose products take registers. The rows stay in
// shared memory, or come along with the columns where they are too wide for that; three panels of columns are on their
// way or in use. A warp reads 192 bytes of shared memory a product of 16 x 8 x 32 bytes, of halves 171: three quarters
// of what an SM of sm_80 can give in the time of its tensor cores. Of L2 a block
// of 64 rows asks for 32 bytes a cycle there, which is nearly all there is, one of 128 for half of that.
#pragma once

#include "cuda/tile.cuh"

namespace fastpixcon {

template <int kRows_, int kN_ = 8>
struct Sweep {
  static constexpr int kRows = kRows_, kColumns = 128, kStages = 3;
  static constexpr int kM = 2, kN = kN_;  // of 16 rows, of 8 columns, a warp
  static constexpr int kWarpColumns = 8 * kN, kAcross = kColumns / kWarpColumns, kThreads = kRows * kAcross;

  const char *x, *y;  // [.., row_bytes]
  int row_bytes;      // a multiple of kPanel
  bool resident;      // the rows stay
  char* shared;

  static constexpr int shared_bytes(int row_bytes, bool resident) {
    return (resident ? kRows * row_bytes : kStages * kRows * kPanel) + kStages * kColumns * kPanel;
  }

  int warp = threadIdx.x / 32;
  int first_row = warp / kAcross * 32, first_column = warp % kAcross * kWarpColumns;  // of this warp's part of a tile

  // Of s[m][n][2 i + e]: the row of (m, i) in the block, the column of (n, e) in the tile.
  __device__ int row(int m, int i) const { return first_row + 16 * m + 8 * i + Lane().g; }
  __device__ int column(int n, int e) const { return first_column + 8 * n + 2 * Lane().t + e; }

  // Calls before(tile), then after(tile, s [kM][kN][4]) with the products of rows i0.. and those of the tiles
  // begin <= tile < end, which are the rows j0 + tile * kColumns.. of y; rows from x_end and y_end on are zeros.
  // Between two runs the block has to wait for all its threads.
  template <Precision kPrecision, typename Before, typename After>
  __device__ void run(int i0, int x_end, int j0, int y_end, int begin, int end, const Before& before,
                      const After& after) const {
    const int panels = row_bytes / kPanel;
    const int stage_bytes = (kColumns + (resident ? 0 : kRows)) * kPanel;
    char* const stages = shared + (resident ? kRows * row_bytes : 0);
    int load_tile = begin, load_panel = 0, load_stage = 0, stage = 0;
    const auto load = [&] {
      if (load_tile < end) {
        char* const to = stages + load_stage * stage_bytes;
        copy_panels<kColumns, kThreads>(to, y, row_bytes, load_panel, 1, j0 + load_tile * kColumns, y_end);
        if (!resident) copy_panels<kRows, kThreads>(to + kColumns * kPanel, x, row_bytes, load_panel, 1, i0, x_end);
        load_stage = load_stage + 1 == kStages ? 0 : load_stage + 1;
        if (++load_panel == panels) load_panel = 0, ++load_tile;
      }
      copy_async_commit();
    };

    if (resident && begin < end) copy_panels<kRows, kThreads>(shared, x, row_bytes, 0, panels, i0, x_end);
    for (int i = 0; i < kStages - 1; ++i) load();
    for (int tile = begin; tile < end; ++tile) {
      before(tile);
      float s[kM][kN][4] = {};
      for (int panel = 0; panel < panels; ++panel) {
        copy_async_wait<kStages - 2>();
        __syncthreads();
        load();
        const char* const columns = stages + stage * stage_bytes;
        const char* const rows = resident ? shared + panel * kRows * kPanel : columns + kColumns * kPanel;
        multiply_panels<kPrecision>(s, rows, first_row, columns, first_column);
        stage = stage + 1 == kStages ? 0 : stage + 1;
      }
      after(tile, s);
    }
  }
};

template <Precision kPrecision, int kRows>
using SweepOf = Sweep<kRows, kPrecision == Precision::kHalfx3 ? 4 : 8>;

}  // namespace fastpixcon
