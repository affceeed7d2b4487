#include "cpu/pair_rules.h"

#include <c10/util/Exception.h>

#include <cmath>

namespace fastpixcon::cpu {
namespace {

using at::Tensor;
constexpr size_t kOverhang = 64;  // read a vector past the end

Groups groups_of(c10::string_view which) {
  return which == "any" ? Groups::kAny : which == "same" ? Groups::kSame : Groups::kOther;
}

float in_sum(float weight, bool logs) { return logs ? std::log(weight) : weight; }

template <class T>
std::vector<T> sorted(const Tensor& of, const SortedRows& set) {
  const Tensor dense = of.contiguous();
  const T* from = dense.const_data_ptr<T>();
  std::vector<T> out(set.n + kOverhang);
  for (int64_t i = 0; i < set.n; ++i) out[i] = from[set.source[i]];
  return out;
}

std::vector<float> as_in_sums(std::vector<float> weights, bool logs) {
  for (float& weight : weights) weight = in_sum(weight, logs);
  return weights;
}

std::vector<int32_t> groups(const Rows& rows, const SortedRows& set) {
  TORCH_CHECK_VALUE(rows.groups.has_value(), "groups: got None, want [N] int32, which the rule of pairs looks at");
  return sorted<int32_t>(*rows.groups, set);
}

// Labels as class weights are looked up by, else numbers of classes.
std::vector<int32_t> labels(const SortedRows& set, const std::vector<int32_t>& numbers, const Rule& rule) {
  std::vector<int32_t> out(set.n + kOverhang);
  for (int64_t i = 0; i < set.n; ++i)
    out[i] = rule.class_weights.has_value() ? static_cast<int32_t>(set.label[i]) : numbers[i];
  return out;
}

void check_labels(const SortedRows& set, int64_t classes) {
  TORCH_CHECK_VALUE(set.n == 0 || (set.label.front() >= 0 && set.label.back() < classes), "class_weights: got [",
                    classes, ", ", classes, "], want a row and a column for each label, of which one is ",
                    set.n == 0              ? 0
                    : set.label.front() < 0 ? set.label.front()
                                            : set.label.back());
}

void add_class_weights(const Rule& rule, bool logs, PairRules& rules) {
  if (!rule.class_weights.has_value()) return;
  const Tensor W = rule.class_weights->contiguous();
  rules.rule.classes = W.size(0);
  rules.class_weights.resize(W.numel());
  for (int64_t k = 0; k < W.numel(); ++k) rules.class_weights[k] = in_sum(W.const_data_ptr<float>()[k], logs);
}

void add_weights(const Rows& rows, const SortedRows& set, bool logs, RuleOfRows& out) {
  const std::vector<float> ones(set.n + kOverhang, 1.0f);
  if (rows.positive_weights.has_value()) out.mass = sorted<float>(*rows.positive_weights, set);
  out.positive = as_in_sums(out.mass.empty() ? ones : out.mass, logs);
  out.negative =
      as_in_sums(rows.negative_weights.has_value() ? sorted<float>(*rows.negative_weights, set) : ones, logs);
}

}  // namespace

RuledRows RuleOfRows::at(int64_t i) const {
  const auto from = [i](const auto& of) { return of.empty() ? nullptr : of.data() + i; };
  return {from(positive), from(negative), from(mass), from(label), from(group)};
}

TileRule PairRules::at(int64_t i0, int64_t j0) const {
  TileRule tile = rule;
  tile.rows = rows.at(i0);
  tile.columns = self ? rows.at(j0) : columns.at(j0);
  tile.class_weights = class_weights.empty() ? nullptr : class_weights.data();
  return tile;
}

std::optional<PairRules> batch_rules(const Rule& rule, bool logs, const Rows& anchors, const SortedRows& sorted_anchors,
                                     const std::optional<Rows>& contrast, const SortedRows& sorted_contrast,
                                     const Classes& classes) {
  PairRules rules;
  rules.self = !contrast.has_value();
  rules.rule.positives = groups_of(rule.positive_groups);
  rules.rule.negatives = groups_of(rule.negative_groups);
  rules.rule.weighted = rule.class_weights.has_value() || anchors.positive_weights.has_value() ||
                        (!rules.self && contrast->positive_weights.has_value());
  if (!rules.rule.weighted && !rules.grouped()) return std::nullopt;
  if (rules.grouped()) {
    rules.rows.group = groups(anchors, sorted_anchors);
    if (!rules.self) rules.columns.group = groups(*contrast, sorted_contrast);
  }
  if (!rules.rule.weighted) return rules;
  add_class_weights(rule, logs, rules);
  if (rule.class_weights.has_value())
    for (const SortedRows* set : {&sorted_anchors, &sorted_contrast}) check_labels(*set, rules.rule.classes);
  rules.rows.label = labels(sorted_anchors, classes.of_anchor, rule);
  add_weights(anchors, sorted_anchors, logs, rules.rows);
  if (rules.self) return rules;
  rules.columns.label = labels(sorted_contrast, classes.of_contrast, rule);
  add_weights(*contrast, sorted_contrast, logs, rules.columns);
  if (rules.rows.mass.empty() != rules.columns.mass.empty())  // weights of either side are looked at together
    for (RuleOfRows* side : {&rules.rows, &rules.columns})
      if (side->mass.empty()) side->mass.assign(side->label.size(), 1.0f);
  return rules;
}

std::optional<PairRules> bank_rules(const Rule& rule, bool logs, const Rows& anchors, const SortedRows& sorted_anchors,
                                    const BankRows& bank) {
  PairRules rules;
  rules.rule.positives = groups_of(rule.positive_groups);
  rules.rule.negatives = groups_of(rule.negative_groups);
  rules.rule.weighted = rule.class_weights.has_value() || bank.negative_weights.has_value();
  if (!rules.rule.weighted) return rules.grouped() ? std::optional(rules) : std::nullopt;
  const int64_t K = bank.x.size(0), S = bank.x.size(1);
  add_class_weights(rule, logs, rules);
  if (rule.class_weights.has_value()) {
    check_labels(sorted_anchors, rules.rule.classes);
    TORCH_CHECK_VALUE(K <= rules.rule.classes, "class_weights: got ", rules.rule.classes,
                      " classes, want those of the ", K, " rings of bank");
  }
  rules.rows.label.resize(sorted_anchors.n + kOverhang);
  for (int64_t i = 0; i < sorted_anchors.n; ++i) {
    const int64_t label = sorted_anchors.label[i];
    rules.rows.label[i] = static_cast<int32_t>(rule.class_weights.has_value() || (label >= 0 && label < K) ? label : K);
  }
  add_weights({anchors.x, anchors.labels}, sorted_anchors, logs, rules.rows);
  rules.columns.label.resize(K * S + kOverhang);
  rules.columns.positive.assign(K * S + kOverhang, in_sum(1, logs));
  rules.columns.negative = rules.columns.positive;
  const Tensor weights = bank.negative_weights.has_value() ? bank.negative_weights->contiguous() : Tensor();
  for (int64_t j = 0; j < K * S; ++j) {
    rules.columns.label[j] = static_cast<int32_t>(j / S);
    if (weights.defined()) rules.columns.negative[j] = in_sum(weights.const_data_ptr<float>()[j / S], logs);
  }
  return rules;
}

std::optional<PairRules> group_rules(c10::string_view positives, c10::string_view negatives, const Rows& anchors,
                                     const SortedRows& sorted_anchors, const std::optional<Rows>& contrast,
                                     const std::optional<SortedRows>& sorted_contrast) {
  PairRules rules;
  rules.rule.positives = groups_of(positives);
  rules.rule.negatives = groups_of(negatives);
  if (!rules.grouped()) return std::nullopt;
  if (!contrast.has_value()) return rules;
  rules.rows.group = groups(anchors, sorted_anchors);
  rules.columns.group = groups(*contrast, *sorted_contrast);
  return rules;
}

}  // namespace fastpixcon::cpu
