// What happens to a tile of dot products between the products: sums of exponentials, losses, gradients.
#pragma once

#include <cstdint>

#include "cpu/tile.h"
#include "cpu/vec.h"

namespace fastpixcon {
namespace {

constexpr float kLn2 = 0.693147180559945f, kLog2E = 1.44269504088896f;
constexpr float kInfinity = __builtin_inff();

// Which lanes of the vector at column v of row i are in the row's sum, and which are positives.
class Lanes {
 public:
  Lanes(const TileView& tile, int64_t i)
      : lo_(tile.positives ? tile.positives[i].lo : 0),
        hi_(tile.positives ? tile.positives[i].hi : 0),
        self_(tile.diagonal ? i : -1),
        n_(tile.n),
        negatives_(tile.negatives) {}

  // All lanes of the vectors in columns [v, end) are in the sum, and no positives.
  bool plain(int64_t v, int64_t end) const {
    return end <= n_ && (v >= hi_ || end <= lo_) && (self_ < v || self_ >= end);
  }
  bool plain(int64_t v) const { return plain(v, v + kWidth); }
  IntVec positive(int64_t v) const { return lanes_between(lo_ - v, hi_ - v) & ~is_self(v); }
  IntVec in_sum(int64_t v) const {
    const IntVec here = lanes_between(0, n_ - v) & ~is_self(v);
    return negatives_ ? here & ~lanes_between(lo_ - v, hi_ - v) : here;
  }

  int64_t first_positive() const { return lo_ / kWidth * kWidth; }
  int64_t last_positive() const { return hi_; }

 private:
  IntVec is_self(int64_t v) const { return lane_index() == static_cast<int32_t>(self_ - v); }
  int64_t lo_, hi_, self_, n_;
  bool negatives_;
};

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
    const auto add = [&](Vec e, int64_t v) {
      sum += e;
      store(column_sum + v, load(column_sum + v) + e);
    };
    if (lanes.plain(0, (tile.n + kWidth - 1) / kWidth * kWidth)) {
      exponentials(tile, i, add);
    } else {
      exponentials(tile, i, [&](Vec e, int64_t v) { add(select(lanes.in_sum(v), e, Vec{}), v); });
    }
    store(row_sum[i], sum);
  }
  for (int64_t i = 0; i < tile.m; ++i) rows.sum[i] += sum_lanes(load(row_sum[i]));
  if (columns.sum == nullptr) return;
  for (int64_t j = 0; j < tile.n; ++j) columns.sum[j] += column_sum[j];
}

// Raises a running sum's maximum to at least `best`; false if there is nothing to add.
inline bool raise_max(RunningSum sums, int64_t i, float best) {
  if (best == -kInfinity) return false;
  if (best > sums.max[i]) {
    if (sums.sum[i] != 0) sums.sum[i] *= exp2(splat((sums.max[i] - best) * kLog2E))[0];
    sums.max[i] = best;
  }
  return true;
}

void sum_online(const TileView& tile, RunningSum rows, RunningSum columns) {
  float column_max[kTileStride], column_sum[kTileStride] = {};
  for (float& x : column_max) x = -kInfinity;
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    float* s = tile.s + i * kTileStride;
    Vec best = splat(-kInfinity);
    for (int64_t v = 0; v < tile.n; v += kWidth) {
      Vec x = logit(tile, i, v);
      if (!lanes.plain(v)) x = select(lanes.in_sum(v), x, splat(-kInfinity));
      store(s + v, x);
      best = maximum(best, x);
      store(column_max + v, maximum(load(column_max + v), x));
    }
    if (!raise_max(rows, i, max_lanes(best))) continue;
    Vec row_sum{};
    for (int64_t v = 0; v < tile.n; v += kWidth) row_sum += exp2((load(s + v) - rows.max[i]) * kLog2E);
    rows.sum[i] += sum_lanes(row_sum);
  }
  if (columns.sum == nullptr) return;
  bool any[kTileStride];
  for (int64_t j = 0; j < tile.n; ++j) {
    any[j] = raise_max(columns, j, column_max[j]);
    column_max[j] = any[j] ? columns.max[j] : 0;
  }
  for (int64_t i = 0; i < tile.m; ++i)
    for (int64_t v = 0; v < tile.n; v += kWidth) {
      const Vec e = exp2((load(tile.s + i * kTileStride + v) - load(column_max + v)) * kLog2E);
      store(column_sum + v, load(column_sum + v) + e);
    }
  for (int64_t j = 0; j < tile.n; ++j)
    if (any[j]) columns.sum[j] += column_sum[j];
}

struct SoftplusSigmoid {
  Vec softplus, sigmoid;  // log(1 + e^m) and 1 / (1 + e^-m) of a margin m given in units of log2
};

inline SoftplusSigmoid softplus_sigmoid(Vec margin) {
  const Vec t = exp2(-absolute(margin));
  const Vec one = splat(1.0f);
  return {maximum(margin * kLn2, Vec{}) + log1p_unit(t), select(margin >= Vec{}, one, t) / (one + t)};
}

void positives(const TileView& tile, PositiveSums rows, PositiveSums columns) {
  float column_loss[kTileStride] = {}, column_weight[kTileStride] = {};
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    Vec row_loss{}, row_weight{};
    for (int64_t v = lanes.first_positive(); v < lanes.last_positive(); v += kWidth) {
      const IntVec mask = lanes.positive(v);
      const Vec x = logit(tile, i, v);
      const SoftplusSigmoid row = softplus_sigmoid((rows.log_sum[i] - x) * tile.unit);
      row_loss += select(mask, row.softplus, Vec{});
      row_weight += select(mask, row.sigmoid, Vec{});
      if (columns.loss == nullptr) continue;
      const SoftplusSigmoid column = softplus_sigmoid((load(columns.log_sum + v) - x) * tile.unit);
      store(column_loss + v, load(column_loss + v) + select(mask, column.softplus, Vec{}));
      store(column_weight + v, load(column_weight + v) + select(mask, column.sigmoid, Vec{}));
    }
    rows.loss[i] += sum_lanes(row_loss);
    rows.weight[i] += sum_lanes(row_weight);
  }
  if (columns.loss == nullptr) return;
  for (int64_t j = 0; j < tile.n; ++j) {
    columns.loss[j] += column_loss[j];
    columns.weight[j] += column_weight[j];
  }
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
      Vec h = weighted(e, v);
      if (!lanes.plain(v)) {
        h = select(lanes.in_sum(v), h, Vec{});
        Vec pull = splat(rows.pull[i]), pull_columns = both ? load(columns.pull + v) : Vec{};
        if (tile.negatives) {
          pull *= rows.sum[i] / (rows.sum[i] + e);
          if (both) pull_columns *= load(columns.sum + v) / (load(columns.sum + v) + e);
        }
        h = select(lanes.positive(v), h - (pull + pull_columns), h);
      }
      store(s + v, h);
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
      Vec h = rows.weight[i] * exp2((x - rows.sum[i]) * kLog2E);
      if (both) h += load(columns.weight + v) * exp2((x - load(columns.sum + v)) * kLog2E);
      if (!lanes.plain(v)) {
        h = select(lanes.in_sum(v), h, Vec{});
        Vec pull = splat(rows.pull[i]), pull_columns = both ? load(columns.pull + v) : Vec{};
        if (tile.negatives) {
          pull *= softplus_sigmoid((rows.sum[i] - x) * kLog2E).sigmoid;
          if (both) pull_columns *= softplus_sigmoid((load(columns.sum + v) - x) * kLog2E).sigmoid;
        }
        h = select(lanes.positive(v), h - (pull + pull_columns), h);
      }
      store(s + v, h);
    }
  }
}

}  // namespace
}  // namespace fastpixcon
