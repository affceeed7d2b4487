// Anchors against a memory bank, tile by tile.
#pragma once

#include <ATen/Parallel.h>

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "cpu/column_sets.h"
#include "cpu/pair_rules.h"
#include "cpu/problem.h"

namespace fastpixcon::cpu {

// Runs work(t) for every t < count, each by the next free thread.
template <class Work>
void each_by_a_thread(int64_t count, const Work& work) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(count, at::get_num_threads()), 1, [&](int64_t, int64_t) {
    for (int64_t t = next++; t < count; t = next++) work(t);
  });
}

// Runs work(view, first row, block) on the dot products of sorted anchors [i_first, i_last) with the columns. `itself`
// [n]: of sorted anchors, the column that it is, or -1; null: none is one. `rules`: null: labels
// say all.
template <class Set, class View, class Work>
void for_tiles_of(const TileKernels& kernels, const SortedRows& anchors, const Set& set, int64_t i_first,
                  int64_t i_last, Columns columns, const int32_t* itself, const PairRules* rules, float* s,
                  const View& view_of, const Work& work) {
  BlockBuffer buffer;
  ColumnBlock block;
  std::vector<Columns> ring(i_last - i_first);
  for (int64_t i = i_first; i < i_last; ++i)
    ring[i - i_first] = i > i_first && anchors.label[i] == anchors.label[i - 1] ? ring[i - i_first - 1]
                                                                                : set.positives(anchors.label[i]);
  Range positives[kTile];
  int32_t own_columns[kTile];
  for (int64_t j0 = columns.first; j0 < columns.last; j0 += kernels.block) {
    const int64_t n = std::min(kernels.block, columns.last - j0);
    if (!set.load(j0, n, buffer, block)) continue;
    for (int64_t i0 = i_first; i0 < i_last; i0 += kernels.block) {
      const int64_t m = std::min(kernels.block, i_last - i0);
      bool any_positives = false, any_itself = false;
      for (int64_t i = 0; i < m; ++i) {
        const Columns of = ring[i0 + i - i_first];
        positives[i] = {static_cast<int32_t>(std::clamp<int64_t>(of.first - j0, 0, n)),
                        static_cast<int32_t>(std::clamp<int64_t>(of.last - j0, 0, n))};
        any_positives |= positives[i].lo < positives[i].hi;
        const int64_t own = itself == nullptr ? -1 : itself[i0 + i] - j0;
        own_columns[i] = static_cast<int32_t>(own >= 0 && own < n ? own : -1);
        any_itself |= own_columns[i] >= 0;
      }
      Ahead ahead;
      kernels.logits(anchors.operand, i0, m, block.operand, block.first, n, s, ahead);
      TileView view = view_of(i0, m, n, any_positives ? positives : nullptr, any_itself ? own_columns : nullptr, s);
      view.present = block.present;
      view.columns.number = block.number;
      TileRule rule;
      if (rules != nullptr) {
        rule = rules->at(i0, j0);
        view.rule = &rule;
      }
      work(view, i0, block);
    }
  }
}

struct AnchorsAndBank {
  const TileKernels& kernels;
  Denominator of;
  Scale scale;
  SortedRows anchors;
  BankColumns bank;
  std::optional<KeptPairs> kept;
  std::optional<PairRules> rules;

  explicit AnchorsAndBank(const MemorySet& set)
      : kernels(tile_kernels(set.anchors.x.scalar_type())),
        of{set.rule.apart(), set.rule.negatives()},
        scale(set.rule.temperature, true),
        anchors(sort_rows(set.anchors, false, kernels)),
        bank(set.bank, kernels),
        rules(bank_rules(set.rule, scale.online, set.anchors, anchors, set.bank)) {
    anchors.pack(Part::kLeft, kernels);
    if (set.pairs.mined.has_value()) kept.emplace(set.pairs, kBankStream, anchors.source, nullptr);
  }

  // Sums have all pairs of a tile.
  bool sums_have_all() const { return !of.apart && !kept.has_value() && !(rules.has_value() && rules->grouped()); }

  // Runs work(view, first row, block) on the dot products of sorted anchors [i_first, i_last) with columns of the bank.
  template <class Work>
  void for_tiles(int64_t i_first, int64_t i_last, Columns columns, float* s, const Work& work) const {
    const auto view = [&](int64_t i0, int64_t m, int64_t n, const Range* positives, const int32_t* itself, float* s) {
      TileView tile = scale.view(s, m, n, positives, of, itself);
      if (kept.has_value()) tile.rows = kept->rows(i0);
      return tile;
    };
    for_tiles_of(kernels, anchors, bank, i_first, i_last, columns, nullptr, rules.has_value() ? &*rules : nullptr, s,
                 view, work);
  }
};

}  // namespace fastpixcon::cpu
