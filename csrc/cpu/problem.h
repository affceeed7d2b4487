// One loss over one contrast set: its rows, sorted and packed, and how their logits are cut into tiles.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/operators.h"
#include "cpu/kept_pairs.h"
#include "cpu/pair_rules.h"
#include "cpu/schedule.h"
#include "cpu/sorted_rows.h"

namespace fastpixcon::cpu {

constexpr double kLn2 = 0.693147180559945309417;
constexpr double kFixedShiftMin = 0.025;  // below it e^((cos - 1) / temperature) underflows in float
constexpr int64_t kOverhang = 64;         // arrays of row terms are read a vector past their end
constexpr int64_t kScratch = kTile * kTileStride;

const TileKernels& tile_kernels(at::ScalarType dtype);

// How logits are made of dot products, see TileView.
struct Scale {
  bool online;
  float scale;
  double inverse;  // 1 / temperature, exactly as `scale` has it, so that sums and logits cancel

  Scale(const at::Tensor& temperature, bool unit_rows);

  // A logarithm of a sum in nats, in the unit and with the shift of the tiles' logits.
  float of_log_sum(double nats) const { return static_cast<float>(online ? nats : (nats - inverse) / kLn2); }
  TileView view(float* s, int64_t m, int64_t n, const Range* positives, Denominator of, const int32_t* itself) const {
    return {s, m, n, positives, of, itself, scale, online ? 0 : scale, static_cast<float>(online ? 1 / kLn2 : 1)};
  }
};

enum class Gathered { kAll, kContrast };  // whose rows are; kContrast: anchors are in order, no more

struct Problem {
  const TileKernels& kernels;
  bool self;
  Denominator of;
  bool mutual;  // contrast rows are anchors, too
  Scale scale;
  SortedRows anchors, separate;
  Classes classes;
  Blocks row_blocks, column_blocks;
  std::vector<int32_t> itself;  // [n] where an anchor is among the contrast rows, -1: nowhere; empty: none is
  std::optional<KeptPairs> kept;
  std::optional<PairRules> rules;

  explicit Problem(const InfoNCE& call, Gathered gathered = Gathered::kAll);
  Problem(const ContrastSet& set, bool mutual);

  // Fewer and larger tiles: of self contrast those take less where they are kept, of separate rows panels want few.
  void take_larger_blocks() {
    column_blocks = Blocks::split(contrast().n, kernels.lanes, kernels.block, self ? 3 : 1);
    if (self) row_blocks = column_blocks;
  }

  // So that a gradient's memory is that of its products or of its results, not of both.
  void forget_rows() {
    for (SortedRows* set : {&anchors, &separate}) set->forget_rows();
  }
  void forget_operands() {
    forget_rows();
    for (SortedRows* set : {&anchors, &separate}) set->forget_packed();
  }

  bool online() const { return scale.online; }
  const SortedRows& contrast() const { return self ? anchors : separate; }
  SortedRows& contrast() { return self ? anchors : separate; }
  const ClassRange& class_of(int64_t i) const { return classes.range[classes.of_anchor[i]]; }
  // Where labels say all.
  int64_t num_positives(int64_t i) const {
    return class_of(i).contrast_last - class_of(i).contrast_first - (self ? 1 : 0);
  }
  // [n] of every sorted anchor whether one of its positives weighs anything, of whatever rules there are.
  std::vector<bool> have_positives() const;
  // Sums have all pairs of a tile, but of a row with itself.
  bool sums_have_all() const { return !of.apart && !kept.has_value() && !(rules.has_value() && rules->grouped()); }

  // Rows of block I have positives among the columns of block J. Classes are in order, so theirs is one range.
  bool has_positives_between(int64_t i0, int64_t i1, int64_t j0, int64_t j1) const {
    return class_of(i0).contrast_first < j1 && class_of(i1 - 1).contrast_last > j0;
  }
  bool has_positives(int64_t I, int64_t J) const {
    const int64_t i = row_blocks.first(I), j = column_blocks.first(J);
    return has_positives_between(i, i + row_blocks.length(I), j, j + column_blocks.length(J));
  }
  bool has_negatives(int64_t I, int64_t J) const {
    const int64_t i = row_blocks.first(I), j = column_blocks.first(J);
    const int32_t first = classes.of_anchor[i];
    return first != classes.of_anchor[i + row_blocks.length(I) - 1] || first != classes.of_contrast[j] ||
           first != classes.of_contrast[j + column_blocks.length(J) - 1];
  }

  // Runs work(view, its columns are anchors besides, first row, first column, what the next tile reads) on the dot
  // products of every kept tile; products(I, J, I is new, J is new) is what work itself reads of blocks that the tile
  // before did not have, null if that is little.
  template <class Keep, class Products, class Work>
  void for_tiles(bool columns_own, const Keep& keep, const Products& products, const Work& work) const {
    const int64_t rows = row_blocks.count(), columns = column_blocks.count();
    schedule(rows, columns, TileSchedule::group(rows), TileSchedule::group(columns), columns_own, keep)
        .run(kScratch, [&](Place tile, Place before, Place after, float* s) {
          const auto [I, J] = tile;
          const int64_t i0 = row_blocks.first(I), j0 = column_blocks.first(J);
          Ahead next;
          if (after.I >= 0 && after.I != I)
            kernels.ahead_of(anchors.operand, Part::kLeft, row_blocks.first(after.I), row_blocks.length(after.I), next);
          if (after.J >= 0 && after.J != J)
            kernels.ahead_of(contrast().operand, Part::kRight, column_blocks.first(after.J),
                             column_blocks.length(after.J), next);
          Ahead own;
          if constexpr (!std::is_null_pointer_v<Products>) own = products(I, J, before.I != I, before.J != J);
          run_tile(has_positives(I, J), self ? I != J : mutual, i0, row_blocks.length(I), j0, column_blocks.length(J),
                   s, std::is_null_pointer_v<Products> ? next : own,
                   [&](const TileView& view, bool both, int64_t i, int64_t j) { work(view, both, i, j, next); });
        });
  }

  // What tiles of self contrast that stay from one step to the next take, in floats.
  int64_t kept_tiles() const {
    const int64_t blocks = row_blocks.count();
    return blocks * (blocks + 1) / 2 * row_blocks.size * kTileStride;
  }
  // Runs work(view, its columns are anchors besides, first row, first column) on kept tiles, which are made of products
  // if they are new.
  template <class Keep, class Work>
  void for_kept_tiles(float* tiles, bool are_new, const Keep& keep, const Work& work) const {
    const int64_t blocks = row_blocks.count();
    TileSchedule::triangle(blocks, TileSchedule::group(blocks), keep)
        .run(0, [&](Place tile, Place, Place after, float*) {
          const auto [I, J] = tile;
          const int64_t i0 = row_blocks.first(I), m = row_blocks.length(I), j0 = row_blocks.first(J);
          const int64_t n = row_blocks.length(J);
          float* const s = tiles + (J * (J + 1) / 2 + I) * row_blocks.size * kTileStride;
          if (are_new) {
            Ahead next;
            if (after.J >= 0 && after.J != J)
              kernels.ahead_of(anchors.operand, Part::kRight, row_blocks.first(after.J), row_blocks.length(after.J),
                               next);
            kernels.logits(anchors.operand, i0, m, anchors.operand, j0, n, s, next);
          }
          view_tile(has_positives(I, J), i0, m, j0, n, s, [&](const TileView& view) { work(view, I != J, i0, j0); });
        });
  }

  // As for_tiles for the tiles around the diagonal class blocks, cut down to the rows and columns of shared classes.
  template <class Work>
  void for_positive_tiles(const Work& work) const {
    const int64_t lanes = kernels.lanes, mean = anchors.n / std::max<int64_t>(classes.range.size(), 1);
    const int64_t size = std::clamp(round_up(mean, lanes), std::max<int64_t>(lanes, 32), kernels.block);
    const Blocks rows{anchors.n, size}, columns{contrast().n, size};
    const auto row_range = [&](int64_t I, int64_t J) {
      const int64_t j0 = columns.first(J), j1 = j0 + columns.length(J);
      int64_t first = rows.first(I), last = first + rows.length(I);
      while (first < last && class_of(first).contrast_last <= j0) first = std::min(last, class_of(first).anchor_last);
      while (first < last && class_of(last - 1).contrast_first >= j1)
        last = std::max(first, class_of(last - 1).anchor_first);
      return std::pair(first / lanes * lanes, last);  // tiles start at multiples of lanes
    };
    const auto keep = [&](int64_t I, int64_t J) {
      return has_positives_between(rows.first(I), rows.first(I) + rows.length(I), columns.first(J),
                                   columns.first(J) + columns.length(J));
    };
    const auto tiles = [&](Place tile, Place, Place, float* s) {
      const auto [I, J] = tile;
      const auto [first, last] = row_range(I, J);
      if (first >= last) return;
      const int64_t j0 = columns.first(J), j1 = j0 + columns.length(J);
      const bool off = !self || I != J;
      const int64_t from = off ? std::max(j0, class_of(first).contrast_first / lanes * lanes) : j0;
      const int64_t to = off ? std::min(j1, class_of(last - 1).contrast_last) : j1;
      Ahead nothing;
      if (from < to) run_tile(true, self ? I != J : mutual, first, last - first, from, to - from, s, nothing, work);
    };
    schedule(rows.count(), columns.count(), 1, 1, mutual, keep).run(kScratch, tiles);
  }

 private:
  Problem(const Rows& anchors, const std::optional<Rows>& contrast, const Rule& rule, c10::string_view rows,
          bool mutual, Gathered gathered);

  using Place = TileSchedule::Place;

  template <class Keep>
  TileSchedule schedule(int64_t rows, int64_t columns, int64_t row_group, int64_t column_group, bool columns_own,
                        const Keep& keep) const {
    return self ? TileSchedule::triangle(rows, row_group, keep)
                : TileSchedule::rectangle(rows, columns, row_group, column_group, columns_own, keep);
  }

  template <class Work>
  void run_tile(bool any_positives, bool both, int64_t i0, int64_t m, int64_t j0, int64_t n, float* s, Ahead& ahead,
                const Work& work) const {
    kernels.logits(anchors.operand, i0, m, contrast().operand, j0, n, s, ahead);
    view_tile(any_positives, i0, m, j0, n, s, [&](const TileView& view) { work(view, both, i0, j0); });
  }

  // work(view) on a tile of dot products that are there.
  template <class Work>
  void view_tile(bool any_positives, int64_t i0, int64_t m, int64_t j0, int64_t n, float* s, const Work& work) const {
    Range positives[kTile];
    for (int64_t i = 0; any_positives && i < m; ++i) {
      const ClassRange& c = class_of(i0 + i);
      positives[i] = {static_cast<int32_t>(std::clamp<int64_t>(c.contrast_first - j0, 0, n)),
                      static_cast<int32_t>(std::clamp<int64_t>(c.contrast_last - j0, 0, n))};
    }
    int32_t own_columns[kTile];
    bool any_itself = false;
    for (int64_t i = 0; !itself.empty() && i < m; ++i) {
      const int64_t j = itself[i0 + i] - j0;
      own_columns[i] = static_cast<int32_t>(j >= 0 && j < n ? j : -1);
      any_itself |= own_columns[i] >= 0;
    }
    TileView view = scale.view(s, m, n, any_positives ? positives : nullptr, of, any_itself ? own_columns : nullptr);
    if (kept.has_value()) {
      view.rows = kept->rows(i0);
      view.columns = kept->columns(j0);
    }
    TileRule rule;
    if (rules.has_value()) {
      rule = rules->at(i0, j0);
      view.rule = &rule;
    }
    work(view);
  }

  friend class Panel;
};

}  // namespace fastpixcon::cpu
