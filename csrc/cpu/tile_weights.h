// What a contrast set without gradient needs of a tile: weights that its rows are added up with, in the forward.
#pragma once

#include <cstdint>

#include "cpu/tile.h"
#include "cpu/tile_softmax.h"
#include "cpu/vec.h"

namespace fastpixcon::cpu {
namespace {

template <class Weights>
inline void weights_fixed_of(const TileView& tile, RunningSum rows) {
  Weights weights(tile, false);
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    weights.begin(i);
    float* s = tile.s + i * kTileStride;
    Vec sum{};
    const auto take = [&](Vec e, int64_t v) {
      if constexpr (Weights::kAny) e *= weights.of_row(v);
      sum += e;
      store(s + v, e);
    };
    if (lanes.plain(0, (tile.n + kWidth - 1) / kWidth * kWidth)) {
      exponentials(tile, i, take);
    } else {
      exponentials(tile, i, [&](Vec e, int64_t v) { take(select(lanes.in_sum(v), e, Vec{}), v); });
    }
    rows.sum[i] += sum_lanes(sum);
  }
}

void weights_fixed(const TileView& tile, RunningSum rows) {
  if (weighted(tile)) return weights_fixed_of<PairWeights<false>>(tile, rows);
  weights_fixed_of<NoWeights>(tile, rows);
}

// The rows of c, from j0 on, whose weight in a tile is not zero.
class FewRows {
 public:
  explicit FewRows(int64_t most) : most_(most) {}

  // The lanes of a vector that `bits` names; false if there are too many.
  bool add(int64_t i, int64_t v, uint32_t bits, Vec weights) {
    float weight[kWidth];
    store(weight, weights);
    for (; bits != 0; bits &= bits - 1) {
      const int l = __builtin_ctz(bits);
      if (count_ == most_) return false;
      found_[count_++] = {static_cast<int16_t>(i), static_cast<int16_t>(v + l), weight[l]};
    }
    return true;
  }
  // d [m][stride] += the weights times the rows.
  void multiply(const Operand& c, int64_t j0, float* d) const {
    for (int64_t f = 0; f < count_; ++f) {
      const float* row = c.rows + (j0 + found_[f].j) * c.stride;
      float* to = d + found_[f].i * c.stride;
      const Vec weight = splat(found_[f].weight);
      for (int64_t k = 0; k < c.depth; k += kWidth) store(to + k, load(to + k) + weight * load(row + k));
    }
  }

  static constexpr int64_t kMost = kTile * kTile / 16;  // above it products of whole tiles are faster

 private:
  struct Found {
    int16_t i, j;
    float weight;
  };
  Found found_[kMost];
  int64_t most_, count_ = 0;
};

template <class Weights>
inline bool add_few_weights_of(const TileView& tile, RunningSum rows, const Operand& c, int64_t j0, float* d) {
  FewRows few(tile.m * tile.n / 16);
  double sums[kTile];
  Weights weights(tile, false);
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    weights.begin(i);
    const bool all_negatives = lanes.all_negatives(0, (tile.n + kWidth - 1) / kWidth * kWidth);
    Vec sum{};
    for (int64_t v = 0; v < tile.n; v += kWidth) {
      const IntVec mask = all_negatives ? lanes.kept(v).negative() : lanes.in_sum(v);
      const uint32_t bits = lane_bits(mask);
      if (bits == 0) continue;
      Vec e = select(mask, exp2(logit(tile, i, v)), Vec{});
      if constexpr (Weights::kAny) e *= weights.of_row(v);
      sum += e;
      if (!few.add(i, v, bits, e)) return false;
    }
    sums[i] = sum_lanes(sum);
  }
  for (int64_t i = 0; i < tile.m; ++i) rows.sum[i] += sums[i];
  few.multiply(c, j0, d);
  return true;
}

bool add_few_weights(const TileView& tile, RunningSum rows, const Operand& c, int64_t j0, float* d) {
  return weighted(tile) ? add_few_weights_of<PairWeights<false>>(tile, rows, c, j0, d)
                        : add_few_weights_of<NoWeights>(tile, rows, c, j0, d);
}

template <class Weights>
inline void weights_online_of(const TileView& tile, RunningSum rows, float* factor) {
  Weights weights(tile, false);
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    weights.begin(i);
    float* s = tile.s + i * kTileStride;
    const auto weighted_logit = [&](int64_t v) {
      const Vec x = logit(tile, i, v);
      return Weights::kAny ? x + weights.of_row(v) : x;
    };
    Vec best = splat(-kInfinity), sum{};
    for (int64_t v = 0; v < tile.n; v += kWidth) {
      Vec x = weighted_logit(v);
      if (!lanes.plain(v)) x = select(lanes.in_sum(v), x, splat(-kInfinity));
      best = maximum(best, x);
    }
    const float before = rows.max[i];
    const bool any = raise_max(rows, i, max_lanes(best));
    factor[i] = before == -kInfinity || !any ? 1 : exp2(splat((before - rows.max[i]) * kLog2E))[0];
    for (int64_t v = 0; v < tile.n; v += kWidth) {
      const Vec x = weighted_logit(v);
      Vec e = any ? exp2((x - rows.max[i]) * kLog2E) : logit(tile, i, v) * 0.0f;  // of NaN it stays
      if (!lanes.plain(v)) e = select(lanes.in_sum(v), e, Vec{});
      sum += e;
      store(s + v, e);
    }
    rows.sum[i] += sum_lanes(sum);
  }
}

void weights_online(const TileView& tile, RunningSum rows, float* factor) {
  if (weighted(tile)) return weights_online_of<PairWeights<true>>(tile, rows, factor);
  weights_online_of<NoWeights>(tile, rows, factor);
}

void pulls(const TileView& tile, PositiveSums rows) {
  for (int64_t i = 0; i < tile.m; ++i) {
    const Lanes lanes(tile, i);
    float* s = tile.s + i * kTileStride;
    Vec loss{}, weight{}, mass{};
    const int64_t first = lanes.first_positive(), last = lanes.last_positive();
    for (int64_t v = 0; v < tile.n; v += kWidth) {
      Vec pull{};
      if (v >= first && v < last) {
        const IntVec mask = lanes.positive(v);
        const SoftplusSigmoid terms = positive_terms(tile, (rows.log_sum[i] - logit(tile, i, v)) * tile.unit);
        loss += select(mask, terms.softplus, Vec{});
        const bool empty = rows.log_sum[i] == -kInfinity;
        pull = select(mask, tile.of.softplus ? terms.sigmoid : splat(empty ? 0.0f : 1.0f), Vec{});
        if (tile.of.softplus) weight += pull;
        mass += select(mask, splat(1.0f), Vec{});
      }
      store(s + v, pull);
    }
    rows.loss[i] += sum_lanes(loss);
    rows.weight[i] += sum_lanes(weight);
    rows.mass[i] += sum_lanes(mass);
  }
}

bool add_few_pulls(const float* s, int64_t m, int64_t n, const Operand& c, int64_t j0, float* d) {
  FewRows few(m * n / 16);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t v = 0; v < n; v += kWidth) {
      const Vec weights = load(s + i * kTileStride + v);
      const uint32_t bits = lane_bits(weights != Vec{});
      if (bits != 0 && !few.add(i, v, bits, weights)) return false;
    }
  few.multiply(c, j0, d);
  return true;
}

}  // namespace
}  // namespace fastpixcon::cpu
