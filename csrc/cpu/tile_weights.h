// What a contrast set without gradient needs of a tile: weights that its rows are added up with, in the forward.
#pragma once

#include <cstdint>

#include "cpu/tile.h"
#include "cpu/tile_softmax.h"
#include "cpu/vec.h"

namespace fastpixcon {
namespace {

void weights_fixed(const TileView& tile, RunningSum rows) {
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    float* s = tile.s + i * kTileStride;
    Vec sum{};
    const auto take = [&](Vec e, int64_t v) {
      sum += e;
      store(s + v, e);
    };
    if (lanes.mined()) {  // mostly nothing
      for (int64_t v = 0; v < tile.n; v += kWidth) {
        const IntVec mask = lanes.in_sum(v);
        take(any_lane(mask) ? select(mask, exp2(logit(tile, i, v)), Vec{}) : Vec{}, v);
      }
    } else if (lanes.plain(0, (tile.n + kWidth - 1) / kWidth * kWidth)) {
      exponentials(tile, i, take);
    } else {
      exponentials(tile, i, [&](Vec e, int64_t v) { take(select(lanes.in_sum(v), e, Vec{}), v); });
    }
    rows.sum[i] += sum_lanes(sum);
  }
}

void weights_online(const TileView& tile, RunningSum rows, float* factor) {
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    float* s = tile.s + i * kTileStride;
    Vec best = splat(-kInfinity), sum{};
    for (int64_t v = 0; v < tile.n; v += kWidth) {
      Vec x = logit(tile, i, v);
      if (!lanes.plain(v)) x = select(lanes.in_sum(v), x, splat(-kInfinity));
      best = maximum(best, x);
    }
    const float before = rows.max[i];
    const bool any = raise_max(rows, i, max_lanes(best));
    factor[i] = before == -kInfinity || !any ? 1 : exp2(splat((before - rows.max[i]) * kLog2E))[0];
    for (int64_t v = 0; v < tile.n; v += kWidth) {
      Vec e{};
      if (any) e = exp2((logit(tile, i, v) - rows.max[i]) * kLog2E);
      if (!lanes.plain(v)) e = select(lanes.in_sum(v), e, Vec{});
      sum += e;
      store(s + v, e);
    }
    rows.sum[i] += sum_lanes(sum);
  }
}

void pulls(const TileView& tile, PositiveSums rows) {
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    float* s = tile.s + i * kTileStride;
    Vec loss{}, weight{};
    IntVec count{};
    const int64_t first = lanes.first_positive(), last = lanes.last_positive();
    for (int64_t v = 0; v < tile.n; v += kWidth) {
      Vec pull{};
      if (v >= first && v < last) {
        const IntVec mask = lanes.positive(v);
        const SoftplusSigmoid terms = positive_terms(tile, (rows.log_sum[i] - logit(tile, i, v)) * tile.unit);
        loss += select(mask, terms.softplus, Vec{});
        pull = select(mask, tile.negatives ? terms.sigmoid : splat(1.0f), Vec{});
        if (tile.negatives) weight += pull;
        count -= mask;
      }
      store(s + v, pull);
    }
    rows.loss[i] += sum_lanes(loss);
    rows.weight[i] += sum_lanes(weight);
    for (int64_t l = 0; l < kWidth; ++l) rows.count[i] += count[l];
  }
}

bool add_few_rows(const float* s, int64_t m, int64_t n, const Operand& c, int64_t j0, float* d) {
  const int64_t most = m * n / 16;  // above it products of whole tiles are faster
  int64_t found = 0;
  for (int64_t i = 0; i < m; ++i) {
    IntVec count{};
    for (int64_t v = 0; v < n; v += kWidth) count -= load(s + i * kTileStride + v) != Vec{};
    for (int64_t l = 0; l < kWidth; ++l) found += count[l];
    if (found > most) return false;
  }
  if (found == 0) return true;
  for (int64_t i = 0; i < m; ++i) {
    float* to = d + i * c.stride;
    for (int64_t v = 0; v < n; v += kWidth) {
      const Vec weights = load(s + i * kTileStride + v);
      if (!any_lane(weights != Vec{})) continue;
      for (int64_t l = 0; l < kWidth; ++l) {
        if (weights[l] == 0) continue;
        const float* row = c.rows + (j0 + v + l) * c.stride;
        for (int64_t k = 0; k < c.depth; k += kWidth) store(to + k, load(to + k) + weights[l] * load(row + k));
      }
    }
  }
  return true;
}

}  // namespace
}  // namespace fastpixcon
