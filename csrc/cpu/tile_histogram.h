// Counts of the cosines of a tile.
#pragma once

#include <cstdint>

#include "cpu/tile.h"
#include "cpu/tile_softmax.h"
#include "cpu/vec.h"

namespace fastpixcon::cpu {
namespace {

// counts [m][kCounts]: bin b of the negatives, kBins + b of the positives, 2 kBins of the rest. The denominator of the
// tile must be "all", so that its sum has both.
void count_cosines(const TileView& tile, int32_t* counts) {
  alignas(64) int32_t bin[kTileStride];
  constexpr float kScale = kBins / 2;
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    const float* s = tile.s + i * kTileStride;
    for (int64_t v = 0; v < tile.n; v += kWidth) {
      Vec x = maximum(load(s + v) * kScale + kScale, Vec{});  // 0 for NaN
      x = x < kBins - 1 ? x : splat(kBins - 1);
      IntVec b = __builtin_convertvector(x, IntVec);
      if (!lanes.plain(v)) {
        b = lanes.positive(v) ? b + static_cast<int32_t>(kBins) : b;
        b = lanes.in_sum(v) ? b : IntVec{} + static_cast<int32_t>(2 * kBins);
      }
      store_ints(bin + v, b);
    }
    int32_t* row = counts + i * kCounts;
    for (int64_t j = 0; j < tile.n; ++j) ++row[bin[j]];
  }
}

}  // namespace
}  // namespace fastpixcon::cpu
