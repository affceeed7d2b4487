// What happens to a tile of dot products between the products: sums of exponentials, losses, gradients.
#pragma once

#include <cstdint>

#include "cpu/tile.h"
#include "cpu/tile_lanes.h"
#include "cpu/vec.h"

namespace fastpixcon::cpu {
namespace {

constexpr float kLn2 = 0.693147180559945f, kLog2E = 1.44269504088896f;
constexpr float kInfinity = __builtin_inff();

inline Vec logit(const TileView& tile, int64_t i, int64_t v) {
  return load(tile.s + i * kTileStride + v) * tile.scale - tile.shift;
}

constexpr int kGroup = 4;  // vectors whose exponentials are computed step by step together

// use(e^s, v) of the vectors of columns [0, n) of row i.
template <class Use>
inline void exponentials(const TileView& tile, int64_t i, const Use& use) {
  int64_t v = 0;
  for (; v + kGroup * kWidth <= tile.n; v += kGroup * kWidth) {
    Vec e[kGroup];
    for (int g = 0; g < kGroup; ++g) e[g] = logit(tile, i, v + g * kWidth);
    exp2(e);
    for (int g = 0; g < kGroup; ++g) use(e[g], v + g * kWidth);
  }
  for (; v < tile.n; v += kWidth) use(exp2(logit(tile, i, v)), v);
}

void sum_fixed(const TileView& tile, RunningSum rows, RunningSum columns) {
  float row_sum[kTile][kWidth], column_sum[kTileStride] = {};
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    Vec sum{};
    const auto add = [&](Vec of_row, Vec of_column, int64_t v) {
      sum += of_row;
      store(column_sum + v, load(column_sum + v) + of_column);
    };
    if (lanes.plain(0, (tile.n + kWidth - 1) / kWidth * kWidth)) {
      exponentials(tile, i, [&](Vec e, int64_t v) { add(e, e, v); });
    } else {
      const bool apart = lanes.mined() && columns.sum != nullptr;
      exponentials(tile, i, [&](Vec e, int64_t v) {
        const Vec of_row = select(lanes.in_sum(v), e, Vec{});
        add(of_row, apart ? select(lanes.in_sum<Anchor::kColumns>(v), e, Vec{}) : of_row, v);
      });
    }
    store(row_sum[i], sum);
  }
  for (int64_t i = 0; i < tile.m; ++i) rows.sum[i] += sum_lanes(load(row_sum[i]));
  if (columns.sum == nullptr) return;
  for (int64_t j = 0; j < tile.n; ++j) columns.sum[j] += column_sum[j];
}

// Raises a running sum's maximum to at least `best`, which may have lost a NaN; false if there is no number to add.
inline bool raise_max(RunningSum sums, int64_t i, float best) {
  if (best == -kInfinity) return false;
  if (best > sums.max[i]) {
    if (sums.sum[i] != 0) sums.sum[i] *= exp2(splat((sums.max[i] - best) * kLog2E))[0];
    sums.max[i] = best;
  }
  return true;
}

// To a running sum what a tile has of it: nothing, if raise_max said so, but that a NaN among nothings stays visible.
inline void add_sum(RunningSum sums, int64_t i, bool any, float sum) {
  if (any || sum != sum) sums.sum[i] += sum;
}

void sum_online(const TileView& tile, RunningSum rows, RunningSum columns) {
  const auto row_logit = [&](const Lanes& lanes, int64_t i, int64_t v) {
    const Vec x = logit(tile, i, v);
    return lanes.plain(v) ? x : select(lanes.in_sum(v), x, splat(-kInfinity));
  };
  const auto column_logit = [&](const Lanes& lanes, int64_t i, int64_t v) {
    return lanes.mined() ? select(lanes.in_sum<Anchor::kColumns>(v), logit(tile, i, v), splat(-kInfinity))
                         : row_logit(lanes, i, v);
  };
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    Vec best = splat(-kInfinity), sum{};
    for (int64_t v = 0; v < tile.n; v += kWidth) best = maximum(best, row_logit(lanes, i, v));
    const bool any = raise_max(rows, i, max_lanes(best));
    const float max = any ? rows.max[i] : 0;
    for (int64_t v = 0; v < tile.n; v += kWidth) sum += exp2((row_logit(lanes, i, v) - max) * kLog2E);
    add_sum(rows, i, any, sum_lanes(sum));
  }
  if (columns.sum == nullptr) return;
  float column_max[kTileStride], column_sum[kTileStride] = {};
  for (float& x : column_max) x = -kInfinity;
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    for (int64_t v = 0; v < tile.n; v += kWidth)
      store(column_max + v, maximum(load(column_max + v), column_logit(lanes, i, v)));
  }
  bool any[kTileStride];
  for (int64_t j = 0; j < tile.n; ++j) {
    any[j] = raise_max(columns, j, column_max[j]);
    column_max[j] = any[j] ? columns.max[j] : 0;
  }
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    for (int64_t v = 0; v < tile.n; v += kWidth) {
      const Vec e = exp2((column_logit(lanes, i, v) - load(column_max + v)) * kLog2E);
      store(column_sum + v, load(column_sum + v) + e);
    }
  }
  for (int64_t j = 0; j < tile.n; ++j) add_sum(columns, j, any[j], column_sum[j]);
}

struct SoftplusSigmoid {
  Vec softplus, sigmoid;  // log(1 + e^m) and 1 / (1 + e^-m) of a margin m given in units of log2
};

inline SoftplusSigmoid softplus_sigmoid(Vec margin) {
  const Vec t = exp2(-absolute(margin));
  const Vec one = splat(1.0f);
  return {maximum(margin * kLn2, Vec{}) + log1p_unit(t), select(margin >= Vec{}, one, t) / (one + t)};
}

// Loss and weight of positives, whose margin log(Z / e^s) is given in units of log2.
inline SoftplusSigmoid positive_terms(const TileView& tile, Vec margin) {
  if (tile.negatives) return softplus_sigmoid(margin);
  return {margin * kLn2, Vec{}};
}

void positives(const TileView& tile, PositiveSums rows, PositiveSums columns) {
  float column_loss[kTileStride] = {}, column_weight[kTileStride] = {};
  int32_t column_count[kTileStride] = {};
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    Vec row_loss{}, row_weight{};
    IntVec row_count{};
    for (int64_t v = lanes.first_positive(); v < lanes.last_positive(); v += kWidth) {
      const IntVec mask = lanes.positive(v);
      const Vec x = logit(tile, i, v);
      const SoftplusSigmoid row = positive_terms(tile, (rows.log_sum[i] - x) * tile.unit);
      row_loss += select(mask, row.softplus, Vec{});
      row_weight += select(mask, row.sigmoid, Vec{});
      row_count -= mask;
      if (columns.loss == nullptr) continue;
      const IntVec column_mask = lanes.mined() ? lanes.positive<Anchor::kColumns>(v) : mask;
      const SoftplusSigmoid column = positive_terms(tile, (load(columns.log_sum + v) - x) * tile.unit);
      store(column_loss + v, load(column_loss + v) + select(column_mask, column.softplus, Vec{}));
      store(column_weight + v, load(column_weight + v) + select(column_mask, column.sigmoid, Vec{}));
      store_ints(column_count + v, load_ints(column_count + v) - column_mask);
    }
    rows.loss[i] += sum_lanes(row_loss);
    rows.weight[i] += sum_lanes(row_weight);
    for (int64_t l = 0; rows.count != nullptr && l < kWidth; ++l) rows.count[i] += row_count[l];
  }
  if (columns.loss == nullptr) return;
  for (int64_t j = 0; j < tile.n; ++j) {
    columns.loss[j] += column_loss[j];
    columns.weight[j] += column_weight[j];
    if (columns.count != nullptr) columns.count[j] += column_count[j];
  }
}

// What masks leave of a tile's dL/ds: `push` of what is in the sum, `pull` of positives; of the rows, of the columns.
template <class Pull>
inline Vec masked_gradient(const TileView& tile, const Lanes& lanes, int64_t v, bool both, Vec row_push,
                           Vec column_push, const Pull& pull_by) {
  const bool apart = lanes.mined() && both;
  const IntVec row_sum = lanes.in_sum(v), row_positive = lanes.positive(v);
  Vec h = select(row_sum, row_push, Vec{}) - select(row_positive, pull_by(false), Vec{});
  if (!both) return h;
  const IntVec column_sum = apart ? lanes.in_sum<Anchor::kColumns>(v) : row_sum;
  const IntVec column_positive = apart ? lanes.positive<Anchor::kColumns>(v) : row_positive;
  h += select(column_sum, column_push, Vec{});
  return h - select(column_positive, pull_by(true), Vec{});
}

void gradient_fixed(const TileView& tile, GradientTerms rows, GradientTerms columns) {
  const bool both = columns.weight != nullptr;
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    float* s = tile.s + i * kTileStride;
    const Vec row_weight = splat(rows.weight[i]);
    const auto weighted = [&](Vec e, int64_t v) {
      return e * (both ? row_weight + load(columns.weight + v) : row_weight);
    };
    if (lanes.plain(0, (tile.n + kWidth - 1) / kWidth * kWidth)) {
      exponentials(tile, i, [&](Vec e, int64_t v) { store(s + v, weighted(e, v)); });
      continue;
    }
    exponentials(tile, i, [&](Vec e, int64_t v) {
      if (lanes.plain(v)) return store(s + v, weighted(e, v));
      const auto pull = [&](bool by_columns) {
        const Vec of_all = by_columns ? load(columns.pull + v) : splat(rows.pull[i]);
        const Vec sum = by_columns ? load(columns.sum + v) : splat(rows.sum[i]);
        return tile.negatives ? of_all * (sum / (sum + e)) : of_all;
      };
      const Vec column_push = both ? e * load(columns.weight + v) : Vec{};
      store(s + v, masked_gradient(tile, lanes, v, both, e * row_weight, column_push, pull));
    });
  }
}

void gradient_online(const TileView& tile, GradientTerms rows, GradientTerms columns) {
  const bool both = columns.weight != nullptr;
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    float* s = tile.s + i * kTileStride;
    for (int64_t v = 0; v < tile.n; v += kWidth) {
      const Vec x = logit(tile, i, v);
      const Vec row_push = rows.weight[i] * exp2((x - rows.sum[i]) * kLog2E);
      Vec column_push{};
      if (both) column_push = load(columns.weight + v) * exp2((x - load(columns.sum + v)) * kLog2E);
      if (lanes.plain(v)) {
        store(s + v, row_push + column_push);
        continue;
      }
      const auto pull = [&](bool by_columns) {
        const Vec of_all = by_columns ? load(columns.pull + v) : splat(rows.pull[i]);
        const Vec sum = by_columns ? load(columns.sum + v) : splat(rows.sum[i]);
        return tile.negatives ? of_all * softplus_sigmoid((sum - x) * kLog2E).sigmoid : of_all;
      };
      store(s + v, masked_gradient(tile, lanes, v, both, row_push, column_push, pull));
    }
  }
}

}  // namespace
}  // namespace fastpixcon::cpu
