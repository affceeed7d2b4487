// Tiles of rows and columns in shared memory of sm_90a, as copies in bulk bring them and warpgroups multiply them.
#pragma once

#include "cuda/info_nce_sm90.h"
#include "cuda/ptx_sm90.cuh"
#include "cuda/tile.cuh"
#include "cuda/warp.cuh"

namespace fastpixcon {

// Numbers a row, columns a tile; warpgroups that multiply, of 64 rows each; whether facts of columns come along.
template <int kWidth_, int kColumns_, int kStages_, int kGroups_ = 2, bool kHasFacts_ = true>
struct WarpgroupTiles {
  static constexpr int kWidth = kWidth_, kColumns = kColumns_, kStages = kStages_;
  static constexpr int kGroups = kGroups_, kRows = 64 * kGroups, kGroupThreads = 128;
  static constexpr int kThreads = kGroupThreads * (kGroups + 1);
  static constexpr int kPanels = 2 * kWidth / kPanel;
  static constexpr bool kHasFacts = kHasFacts_;

  alignas(1024) char rows[kPanels][kRows][kPanel];
  alignas(1024) char columns[kStages][kPanels][kColumns][kPanel];
  alignas(16) float facts[kHasFacts ? kStages : 1][kFactsOfColumn][kColumns];
  uint64_t rows_there, rows_read, there[kStages], read[kStages];  // barriers

  __device__ void begin() {
    barrier_begin(&rows_there, 1);
    barrier_begin(&rows_read, 4 * kGroups);  // a warp each
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_begin(&there[stage], 1);
      barrier_begin(&read[stage], 4 * kGroups);
    }
    barriers_begun();
  }
};

// What all lanes have, so that the compiler knows it.
__device__ inline int of_warp(int x) { return __shfl_sync(kAllLanes, x, 0); }

// Where a block is in the ring of stages.
template <int kStages>
struct Turn {
  int stage = 0, parity = 0;

  __device__ void advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
  __device__ int before() const { return (stage == 0 ? kStages : stage) - 1; }
};

// Rows first.. of a panel.
__device__ inline const char* panel_at(const PanelSet& set, int panel, int first) {
  return static_cast<const char*>(set.panels) + (static_cast<int64_t>(panel) * set.n_pad + first) * kPanel;
}

// One thread: starts to copy the rows of a block.
template <typename Tiles>
__device__ void bring_rows(Tiles& shared, const PanelSet& x, int i0) {
  barrier_expect(&shared.rows_there, sizeof(shared.rows));
  for (int panel = 0; panel < Tiles::kPanels; ++panel)
    copy_bulk(shared.rows[panel], panel_at(x, panel, i0), sizeof(shared.rows[panel]), &shared.rows_there);
}

// The same of a tile of columns, when its stage has been read.
template <typename Tiles>
__device__ void bring_tile(Tiles& shared, const PanelSet& y, int tile, const Turn<Tiles::kStages>& turn) {
  uint64_t* const there = &shared.there[turn.stage];
  barrier_wait(&shared.read[turn.stage], turn.parity ^ 1);
  barrier_expect(there, sizeof(shared.columns[0]) + (Tiles::kHasFacts ? sizeof(shared.facts[0]) : 0));
  for (int panel = 0; panel < Tiles::kPanels; ++panel)
    copy_bulk(shared.columns[turn.stage][panel], panel_at(y, panel, tile * Tiles::kColumns),
              sizeof(shared.columns[0][panel]), there);
  if constexpr (Tiles::kHasFacts)
    copy_bulk(shared.facts[turn.stage], y.facts + static_cast<int64_t>(tile) * kFactsOfColumn * Tiles::kColumns,
              sizeof(shared.facts[0]), there);
}

// Begins the products of the 64 rows first.. of the block with the columns of a stage.
template <Precision kPrecision, typename Tiles>
__device__ void multiply_logits(float (&s)[Tiles::kColumns / 2], Tiles& shared, int first, int stage) {
  uint64_t left = panels_at(shared.rows[0][first], 0);
  made_anew(left);  // kept, those of all steps would fill the registers
  const uint64_t right = panels_at(shared.columns[stage], 0);
#pragma unroll
  for (int step = 0; step < Tiles::kWidth / 16; ++step) {
    const int panel = 32 * step / kPanel, at = 32 * step % kPanel;
    const uint64_t a = further(left, panel * Tiles::kRows * kPanel + at);
    const uint64_t b = further(right, panel * Tiles::kColumns * kPanel + at);
    if (step == 0) {
      multiply_rows<kPrecision, false>(s, a, b);
    } else {
      multiply_rows<kPrecision, true>(s, a, b);
    }
  }
  products_commit();
}

}  // namespace fastpixcon
