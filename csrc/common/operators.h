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
      : InfoNCE(of.rows("anchors"), of.optional_rows("contrast"), of.rule(), of.word("rows")) {}
  InfoNCE(Rows anchors_, std::optional<Rows> contrast_, Rule rule_, c10::string_view rows_)
      : anchors(std::move(anchors_)), contrast(std::move(contrast_)), rule(std::move(rule_)), rows(rows_) {}
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
      : InfoNCEMean(InfoNCE(of), of.optional_tensor("anchor_weights"), of.at("scale").toDouble(), of.flag("mean")) {}
  InfoNCEMean(InfoNCE given_, std::optional<at::Tensor> anchor_weights_, double scale_, bool mean_)
      : given(std::move(given_)), anchor_weights(std::move(anchor_weights_)), scale(scale_), mean(mean_) {}
};

struct InfoNCEAtOnce {
  InfoNCEMean of;
  std::array<bool, 3> output_mask;

  explicit InfoNCEAtOnce(const Arguments& arguments)
      : InfoNCEAtOnce(InfoNCEMean(arguments), arguments.mask("output_mask")) {}
  InfoNCEAtOnce(InfoNCEMean of_, std::array<bool, 3> output_mask_) : of(std::move(of_)), output_mask(output_mask_) {}

  // The dtype of gradients of rows, which wait for that of the value: float16 has no exponents for means.
  at::ScalarType waiting() const {
    const at::ScalarType own = of.given.anchors.x.scalar_type();
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

  explicit ContrastSums(const Arguments& of) : ContrastSums(ContrastSet(of), of.flag("mutual")) {}
  ContrastSums(ContrastSet set_, bool mutual_) : set(std::move(set_)), mutual(mutual_) {}
};

struct ContrastPositives {
  ContrastSet set;
  at::Tensor log_sum;                        // [N]
  std::optional<at::Tensor> column_log_sum;  // [M]; none: contrast rows are no anchors

  explicit ContrastPositives(const Arguments& of)
      : ContrastPositives(ContrastSet(of), of.tensor("log_sum"), of.optional_tensor("column_log_sum")) {}
  ContrastPositives(ContrastSet set_, at::Tensor log_sum_, std::optional<at::Tensor> column_log_sum_)
      : set(std::move(set_)), log_sum(std::move(log_sum_)), column_log_sum(std::move(column_log_sum_)) {}
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

  explicit MemorySet(const Arguments& of) : MemorySet(of.rows("anchors"), of.bank(), of.rule(), of.pairs()) {}
  MemorySet(Rows anchors_, BankRows bank_, Rule rule_, Pairs pairs_)
      : anchors(std::move(anchors_)), bank(std::move(bank_)), rule(std::move(rule_)), pairs(std::move(pairs_)) {}
};

struct MemorySums {
  MemorySet set;
  bool wants_mean;

  explicit MemorySums(const Arguments& of) : MemorySums(MemorySet(of), of.flag("wants_mean")) {}
  MemorySums(MemorySet set_, bool wants_mean_) : set(std::move(set_)), wants_mean(wants_mean_) {}
};

struct MemoryPositives {
  MemorySet set;
  at::Tensor log_sum;  // [N]
  bool wants_pull;

  explicit MemoryPositives(const Arguments& of)
      : MemoryPositives(MemorySet(of), of.tensor("log_sum"), of.flag("wants_pull")) {}
  MemoryPositives(MemorySet set_, at::Tensor log_sum_, bool wants_pull_)
      : set(std::move(set_)), log_sum(std::move(log_sum_)), wants_pull(wants_pull_) {}
};

// The mean of a loss over several contrast sets.
struct ContrastMean {
  ContrastSet batch;  // whose anchors, rule and pairs are those of the bank, too
  bool use_batch;
  std::optional<BankRows> bank;
  std::optional<at::Tensor> taint, anchor_weights;  // [N]; none: zeros, ones
  double scale;
  c10::string_view reduction;  // "mean", "sum" or "none"
  bool wants_gradient;

  explicit ContrastMean(const Arguments& of)
      : batch(of),
        use_batch(of.flag("use_batch")),
        bank(of.optional_bank()),
        taint(of.optional_tensor("taint")),
        anchor_weights(of.optional_tensor("anchor_weights")),
        scale(of.at("scale").toDouble()),
        reduction(of.word("reduction")),
        wants_gradient(of.flag("wants_gradient")) {}

  bool is_mean() const { return reduction == "mean"; }
  bool is_none() const { return reduction == "none"; }
  // The anchors before the bank, in its dtype; none: no bank.
  std::optional<MemorySet> memory() const {
    if (!bank.has_value()) return std::nullopt;
    const auto& [x, labels, v, u, groups] = batch.anchors;
    const Rows rows{x.to(bank->x.scalar_type()), labels, std::nullopt, std::nullopt, groups};
    return MemorySet(rows, *bank, batch.rule, batch.pairs);
  }
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
