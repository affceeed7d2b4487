// Which pairs count, and how much, beyond their labels: in the order of sorted rows.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "common/values.h"
#include "cpu/sorted_rows.h"
#include "cpu/tile.h"

namespace fastpixcon::cpu {

// Of a set of rows; what is empty is not looked at.
struct RuleOfRows {
  std::vector<float> positive, negative, mass;
  std::vector<int32_t> label, group;

  RuledRows at(int64_t i) const;
};

struct PairRules {
  TileRule rule{};
  RuleOfRows rows, columns;
  bool self = false;  // the columns are the rows
  std::vector<float> class_weights;

  TileRule at(int64_t i0, int64_t j0) const;
  bool grouped() const { return rule.positives != Groups::kAny || rule.negatives != Groups::kAny; }
};

// What labels leave open for anchors and contrast rows, one set without the latter; nothing if they say all. `logs`:
// weights in sums become logarithms.
std::optional<PairRules> batch_rules(const Rule& rule, bool logs, const Rows& anchors, const SortedRows& sorted_anchors,
                                     const std::optional<Rows>& contrast, const SortedRows& sorted_contrast,
                                     const Classes& classes);
std::optional<PairRules> bank_rules(const Rule& rule, bool logs, const Rows& anchors, const SortedRows& sorted_anchors,
                                    const BankRows& bank);
// Groups alone; the contrast rows are of none where there are none.
std::optional<PairRules> group_rules(c10::string_view positives, c10::string_view negatives, const Rows& anchors,
                                     const SortedRows& sorted_anchors, const std::optional<Rows>& contrast,
                                     const std::optional<SortedRows>& sorted_contrast);

}  // namespace fastpixcon::cpu
