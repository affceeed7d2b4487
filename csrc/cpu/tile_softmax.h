// What happens to a tile of dot products between the products: sums of exponentials, losses, gradients.
#pragma once

#include <cstdint>

#include "cpu/tile.h"
#include "cpu/tile_lanes.h"
#include "cpu/tile_rules.h"
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

template <class Weights>
inline void sum_fixed_of(const TileView& tile, RunningSum rows, RunningSum columns) {
  float row_sum[kTile][kWidth], column_sum[kTileStride] = {};
  const bool both = columns.sum != nullptr;
  Weights weights(tile, both);
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    weights.begin(i);
    Vec sum{};
    const auto add = [&](Vec of_row, Vec of_column, int64_t v) {
      if constexpr (Weights::kAny) {
        of_row *= weights.of_row(v);
        of_column *= weights.of_columns(v);
      }
      sum += of_row;
      store(column_sum + v, load(column_sum + v) + of_column);
    };
    if (lanes.plain(0, (tile.n + kWidth - 1) / kWidth * kWidth)) {
      exponentials(tile, i, [&](Vec e, int64_t v) { add(e, e, v); });
    } else {
      const bool apart = lanes.mined() && both;
      exponentials(tile, i, [&](Vec e, int64_t v) {
        const Vec of_row = select(lanes.in_sum(v), e, Vec{});
        add(of_row, apart ? select(lanes.in_sum<Anchor::kColumns>(v), e, Vec{}) : of_row, v);
      });
    }
    store(row_sum[i], sum);
  }
  for (int64_t i = 0; i < tile.m; ++i) rows.sum[i] += sum_lanes(load(row_sum[i]));
  if (!both) return;
  for (int64_t j = 0; j < tile.n; ++j) columns.sum[j] += column_sum[j];
}

void sum_fixed(const TileView& tile, RunningSum rows, RunningSum columns) {
  if (weighted(tile)) return sum_fixed_of<PairWeights<false>>(tile, rows, columns);
  sum_fixed_of<NoWeights>(tile, rows, columns);
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

template <class Weights>
inline void sum_online_of(const TileView& tile, RunningSum rows, RunningSum columns) {
  Weights weights(tile, columns.sum != nullptr);
  const auto row_logit = [&](const Lanes& lanes, int64_t i, int64_t v) {
    Vec x = logit(tile, i, v);
    if constexpr (Weights::kAny) x += weights.of_row(v);
    return lanes.plain(v) ? x : select(lanes.in_sum(v), x, splat(-kInfinity));
  };
  const auto column_logit = [&](const Lanes& lanes, int64_t i, int64_t v) {
    if constexpr (!Weights::kAny) {
      if (!lanes.mined()) return row_logit(lanes, i, v);
    }
    Vec x = logit(tile, i, v);
    if constexpr (Weights::kAny) x += weights.of_columns(v);
    return lanes.plain(v) ? x : select(lanes.in_sum<Anchor::kColumns>(v), x, splat(-kInfinity));
  };
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    weights.begin(i);
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
    weights.begin(i);
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
    weights.begin(i);
    for (int64_t v = 0; v < tile.n; v += kWidth) {
      const Vec e = exp2((column_logit(lanes, i, v) - load(column_max + v)) * kLog2E);
      store(column_sum + v, load(column_sum + v) + e);
    }
  }
  for (int64_t j = 0; j < tile.n; ++j) add_sum(columns, j, any[j], column_sum[j]);
}

void sum_online(const TileView& tile, RunningSum rows, RunningSum columns) {
  if (weighted(tile)) return sum_online_of<PairWeights<true>>(tile, rows, columns);
  sum_online_of<NoWeights>(tile, rows, columns);
}

struct SoftplusSigmoid {
  Vec softplus, sigmoid;  // log(1 + e^m) and 1 / (1 + e^-m) of a margin m given in units of log2
};

inline SoftplusSigmoid softplus_sigmoid(Vec margin) {
  const Vec t = exp2(-absolute(margin));
  const Vec one = splat(1.0f);
  return {maximum(margin * kLn2, Vec{}) + log1p_unit(t), select(margin >= Vec{}, one, t) / (one + t)};
}

// Loss and weight of positives, whose margin log(Z / e^s) is given in units of log2; of an empty Z nothing.
inline SoftplusSigmoid positive_terms(const TileView& tile, Vec margin) {
  if (tile.of.softplus) return softplus_sigmoid(margin);
  return {select(margin == splat(-kInfinity), Vec{}, margin * kLn2), Vec{}};
}

// Sums over positives, of which each counts 1 or, kWeighted, as much as the rule's mass of it.
template <bool kWeighted>
inline void positives_of(const TileView& tile, PositiveSums rows, PositiveSums columns) {
  float column_loss[kTileStride] = {}, column_weight[kTileStride] = {}, column_mass[kTileStride] = {};
  const Vec one = splat(1.0f);
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    Vec row_loss{}, row_weight{}, row_mass{};
    for (int64_t v = lanes.first_positive(); v < lanes.last_positive(); v += kWidth) {
      const IntVec mask = lanes.positive(v);
      const Vec x = logit(tile, i, v), mass = kWeighted ? load(tile.rule->columns.mass + v) : one;
      const SoftplusSigmoid row = positive_terms(tile, (rows.log_sum[i] - x) * tile.unit);
      row_loss += select(mask, kWeighted ? row.softplus * mass : row.softplus, Vec{});
      row_weight += select(mask, kWeighted ? row.sigmoid * mass : row.sigmoid, Vec{});
      row_mass += select(mask, mass, Vec{});
      if (columns.loss == nullptr) continue;
      const IntVec column_mask = lanes.mined() ? lanes.positive<Anchor::kColumns>(v) : mask;
      const Vec own = kWeighted ? splat(tile.rule->rows.mass[i]) : one;
      const SoftplusSigmoid column = positive_terms(tile, (load(columns.log_sum + v) - x) * tile.unit);
      const auto add = [&](float* sums, Vec term) {
        store(sums + v, load(sums + v) + select(column_mask, term, Vec{}));
      };
      add(column_loss, kWeighted ? column.softplus * own : column.softplus);
      add(column_weight, kWeighted ? column.sigmoid * own : column.sigmoid);
      add(column_mass, own);
    }
    rows.loss[i] += sum_lanes(row_loss);
    rows.weight[i] += sum_lanes(row_weight);
    rows.mass[i] += sum_lanes(row_mass);
  }
  if (columns.loss == nullptr) return;
  for (int64_t j = 0; j < tile.n; ++j) {
    columns.loss[j] += column_loss[j];
    columns.weight[j] += column_weight[j];
    columns.mass[j] += column_mass[j];
  }
}

void positives(const TileView& tile, PositiveSums rows, PositiveSums columns) {
  if (tile.rule != nullptr && tile.rule->columns.mass != nullptr) return positives_of<true>(tile, rows, columns);
  positives_of<false>(tile, rows, columns);
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

// What pulls positives, of the rows and of the columns as anchors.
struct Pulls {
  const TileView& tile;
  GradientTerms rows, columns;

  // `share` of Z / (Z + e^s), of the anchor's sum, if a positive's loss has it.
  template <class Share>
  Vec operator()(int64_t i, int64_t v, bool by_columns, const Share& share) const {
    Vec of_all = by_columns ? load(columns.pull + v) : splat(rows.pull[i]);
    if (tile.rule != nullptr && tile.rule->columns.mass != nullptr)
      of_all *= by_columns ? splat(tile.rule->rows.mass[i]) : load(tile.rule->columns.mass + v);
    return tile.of.softplus ? of_all * share(by_columns ? load(columns.sum + v) : splat(rows.sum[i])) : of_all;
  }
};

template <class Weights>
inline void gradient_fixed_of(const TileView& tile, GradientTerms rows, GradientTerms columns) {
  const bool both = columns.weight != nullptr;
  const Pulls pulls{tile, rows, columns};
  Weights weights(tile, both);
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    weights.begin(i);
    float* s = tile.s + i * kTileStride;
    const Vec row_weight = splat(rows.weight[i]);
    const auto of_row = [&](int64_t v) { return Weights::kAny ? row_weight * weights.of_row(v) : row_weight; };
    const auto of_columns = [&](int64_t v) {
      const Vec weight = load(columns.weight + v);
      return Weights::kAny ? weight * weights.of_columns(v) : weight;
    };
    const auto weighted = [&](Vec e, int64_t v) { return e * (both ? of_row(v) + of_columns(v) : of_row(v)); };
    if (lanes.plain(0, (tile.n + kWidth - 1) / kWidth * kWidth)) {
      exponentials(tile, i, [&](Vec e, int64_t v) { store(s + v, weighted(e, v)); });
      continue;
    }
    exponentials(tile, i, [&](Vec e, int64_t v) {
      if (lanes.plain(v)) return store(s + v, weighted(e, v));
      const auto pull = [&](bool by_columns) {
        return pulls(i, v, by_columns, [&](Vec sum) { return sum / (sum + e); });
      };
      const Vec column_push = both ? e * of_columns(v) : Vec{};
      store(s + v, masked_gradient(tile, lanes, v, both, e * of_row(v), column_push, pull));
    });
  }
}

void gradient_fixed(const TileView& tile, GradientTerms rows, GradientTerms columns) {
  if (weighted(tile)) return gradient_fixed_of<PairWeights<false>>(tile, rows, columns);
  gradient_fixed_of<NoWeights>(tile, rows, columns);
}

template <class Weights>
inline void gradient_online_of(const TileView& tile, GradientTerms rows, GradientTerms columns) {
  const bool both = columns.weight != nullptr;
  const Pulls pulls{tile, rows, columns};
  Weights weights(tile, both);
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    weights.begin(i);
    float* s = tile.s + i * kTileStride;
    for (int64_t v = 0; v < tile.n; v += kWidth) {
      const Vec x = logit(tile, i, v);
      Vec of_row = x, of_columns = x;
      if constexpr (Weights::kAny) {
        of_row += weights.of_row(v);
        of_columns += weights.of_columns(v);
      }
      const Vec row_push = rows.weight[i] * exp2((of_row - rows.sum[i]) * kLog2E);
      Vec column_push{};
      if (both) column_push = load(columns.weight + v) * exp2((of_columns - load(columns.sum + v)) * kLog2E);
      if (lanes.plain(v)) {
        store(s + v, row_push + column_push);
        continue;
      }
      const auto pull = [&](bool by_columns) {
        return pulls(i, v, by_columns, [&](Vec sum) { return softplus_sigmoid((sum - x) * kLog2E).sigmoid; });
      };
      store(s + v, masked_gradient(tile, lanes, v, both, row_push, column_push, pull));
    }
  }
}

void gradient_online(const TileView& tile, GradientTerms rows, GradientTerms columns) {
  if (weighted(tile)) return gradient_online_of<PairWeights<true>>(tile, rows, columns);
  gradient_online_of<NoWeights>(tile, rows, columns);
}

}  // namespace
}  // namespace fastpixcon::cpu
