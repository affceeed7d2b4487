// The arguments of the operators that multiply rows, as their contracts in fastpixcon/ops/ list them.
#pragma once

#include "common/arguments.h"

namespace fastpixcon {

struct InfoNCE {
  Rows anchors;
  std::optional<Rows> contrast;  // none: the anchors
  Rule rule;
  c10::string_view rows;  // "raw", "unit" or "any"

  explicit InfoNCE(const Arguments& of)
      : anchors(of.rows("anchors")), contrast(of.optional_rows("contrast")), rule(of.rule()), rows(of.word("rows")) {}
};

struct InfoNCEBackward {
  Statistics statistics;
  InfoNCE given;
  std::array<bool, 3> output_mask;

  explicit InfoNCEBackward(const Arguments& of)
      : InfoNCEBackward(of.statistics(), InfoNCE(of), of.mask("output_mask")) {}
  InfoNCEBackward(Statistics statistics_, InfoNCE given_, std::array<bool, 3> output_mask_)
      : statistics(std::move(statistics_)), given(std::move(given_)), output_mask(output_mask_) {}
};

struct InfoNCEMean {
  InfoNCE given;
  std::optional<at::Tensor> anchor_weights;  // [N]; none: ones
  double scale;
  bool mean;  // or a sum

  explicit InfoNCEMean(const Arguments& of)
      : given(of),
        anchor_weights(of.optional_tensor("anchor_weights")),
        scale(of.at("scale").toDouble()),
        mean(of.flag("mean")) {}
};

struct InfoNCETotal {
  std::optional<at::Tensor> d_loss;  // [N]; none: ones
  InfoNCE given;
  std::array<bool, 3> output_mask;

  explicit InfoNCETotal(const Arguments& of)
      : d_loss(of.optional_tensor("d_loss")), given(of), output_mask(of.mask("output_mask")) {}

  // The dtype of gradients of rows, which wait for that of the total: float16 has no exponents for means.
  at::ScalarType waiting() const {
    const at::ScalarType own = given.anchors.x.scalar_type();
    return own == at::kHalf ? at::kFloat : own;
  }
};

// Anchors and one contrast set of several.
struct ContrastSet {
  Rows anchors;
  std::optional<Rows> contrast;  // none: the anchors
  Rule rule;
  Pairs pairs;

  explicit ContrastSet(const Arguments& of)
      : anchors(of.rows("anchors")), contrast(of.optional_rows("contrast")), rule(of.rule()), pairs(of.pairs()) {}
};

struct ContrastSums {
  ContrastSet set;
  bool mutual;  // contrast rows are anchors, too

  explicit ContrastSums(const Arguments& of) : set(of), mutual(of.flag("mutual")) {}
};

struct ContrastPositives {
  ContrastSet set;
  at::Tensor log_sum;                        // [N]
  std::optional<at::Tensor> column_log_sum;  // [M]; none: contrast rows are no anchors

  explicit ContrastPositives(const Arguments& of)
      : set(of), log_sum(of.tensor("log_sum")), column_log_sum(of.optional_tensor("column_log_sum")) {}
  bool mutual() const { return column_log_sum.has_value(); }
};

struct ContrastGradient {
  Statistics statistics;
  std::optional<Statistics> columns;  // of the contrast rows as anchors
  ContrastSet set;
  std::array<bool, 3> output_mask;

  explicit ContrastGradient(const Arguments& of)
      : statistics(of.statistics()), set(of), output_mask(of.mask("output_mask")) {
    if (!of.at("column_d_loss").isNone()) columns = of.statistics("column_");
  }
  bool mutual() const { return columns.has_value(); }
};

// Anchors and the contrast set of a bank.
struct MemorySet {
  Rows anchors;
  BankRows bank;
  Rule rule;
  Pairs pairs;

  explicit MemorySet(const Arguments& of)
      : anchors(of.rows("anchors")), bank(of.bank()), rule(of.rule()), pairs(of.pairs()) {}
};

struct MemorySums {
  MemorySet set;
  bool wants_mean;

  explicit MemorySums(const Arguments& of) : set(of), wants_mean(of.flag("wants_mean")) {}
};

struct MemoryPositives {
  MemorySet set;
  at::Tensor log_sum;  // [N]
  bool wants_pull;

  explicit MemoryPositives(const Arguments& of)
      : set(of), log_sum(of.tensor("log_sum")), wants_pull(of.flag("wants_pull")) {}
};

struct MiningThresholds {
  Rows anchors;
  std::optional<Rows> contrast;
  std::optional<int64_t> diagonal;
  std::optional<BankRows> bank;
  c10::string_view positive_groups, negative_groups, negatives, positives;
  double fraction;
  std::vector<int64_t> keep;  // positives, negatives

  explicit MiningThresholds(const Arguments& of)
      : anchors(of.rows("anchors")),
        contrast(of.optional_rows("contrast")),
        diagonal(of.optional_int("diagonal")),
        bank(of.optional_bank()),
        positive_groups(of.word("positive_groups")),
        negative_groups(of.word("negative_groups")),
        negatives(of.word("negatives")),
        positives(of.word("positives")),
        fraction(of.at("fraction").toDouble()),
        keep(of.at("keep").toIntVector()) {}
};

}  // namespace fastpixcon
