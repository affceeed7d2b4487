// Weights of pairs in sums, of a tile's rows as anchors and of its columns.
#pragma once

#include <cstdint>

#include "cpu/tile.h"
#include "cpu/vec.h"

namespace fastpixcon::cpu {
namespace {

// Of one row at a time, in their order: what depends on the class of the row is worked out where that changes. Without
// a fixed shift weights are logarithms, which add up.
template <bool kLogs>
class PairWeights {
 public:
  static constexpr bool kAny = true;

  PairWeights(const TileView& tile, bool columns_own) : rule_(*tile.rule), n_(tile.n), columns_own_(columns_own) {}

  void begin(int64_t i) {
    const RuledRows& rows = rule_.rows;
    positive_ = splat(rows.positive[i]);
    negative_ = splat(rows.negative[i]);
    if (i > 0 && rows.label[i] == label_) return;
    label_ = rows.label[i];
    for (int64_t v = 0; v < n_; v += kWidth) {
      const IntVec same = of_class(v);
      const RuledRows& columns = rule_.columns;
      store(rows_ + v, select(same, load(columns.positive + v), load(columns.negative + v)));
    }
    if (rule_.class_weights == nullptr) return;
    const float* of_row = rule_.class_weights + label_ * rule_.classes;
    for (int64_t j = 0; j < n_; ++j) {
      const int32_t label = rule_.columns.label[j];
      if (label == label_) continue;
      rows_[j] = kLogs ? rows_[j] + of_row[label] : rows_[j] * of_row[label];
      if (columns_own_) columns_[j] = rule_.class_weights[label * rule_.classes + label_];
    }
  }
  // Of the columns of vector v in the sum of the row.
  Vec of_row(int64_t v) const { return load(rows_ + v); }
  // Of the row in the sums of the columns.
  Vec of_columns(int64_t v) const {
    Vec negative = negative_;
    if (rule_.class_weights != nullptr)
      negative = kLogs ? negative + load(columns_ + v) : negative * load(columns_ + v);
    return select(of_class(v), positive_, negative);
  }

 private:
  IntVec of_class(int64_t v) const { return load_ints(rule_.columns.label + v) == IntVec{} + label_; }

  const TileRule& rule_;
  int64_t n_;
  bool columns_own_;
  int32_t label_ = 0;
  Vec positive_{}, negative_{};
  float rows_[kTileStride] = {}, columns_[kTileStride] = {};
};

// Where there are none.
struct NoWeights {
  static constexpr bool kAny = false;

  NoWeights(const TileView&, bool) {}
  void begin(int64_t) {}
  Vec of_row(int64_t) const { return Vec{}; }
  Vec of_columns(int64_t) const { return Vec{}; }
};

inline bool weighted(const TileView& tile) { return tile.rule != nullptr && tile.rule->weighted; }

}  // namespace
}  // namespace fastpixcon::cpu
