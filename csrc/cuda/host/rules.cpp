#include "cuda/host/rules.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/log.h>
#include <ATen/ops/stack.h>

#include "common/checks.h"
#include "cuda/host/launch.h"
#include "cuda/host/tensors.h"
#include "cuda/info_nce.h"

namespace fastpixcon {

using at::Tensor;

namespace {

std::optional<Tensor> contiguous(const std::optional<Tensor>& x) {
  return x.has_value() ? std::optional(x->contiguous()) : std::nullopt;
}

// v, u and groups in the order of sorted labels [n].
Tensor row_weights(const Ruling& ruling, const std::optional<Tensor>& v, const std::optional<Tensor>& u,
                   const std::optional<Tensor>& groups, const std::optional<Tensor>& source, const Tensor& labels,
                   const std::optional<Tensor>& sorted_groups, int64_t ring) {
  const int64_t n = labels.size(0);
  Tensor weights = at::empty({4, n}, labels.options().dtype(at::kFloat));
  launch(row_rules_kernel(), dim3(ceil_div<int64_t>(n, kRowwiseThreads)), dim3(kRowwiseThreads), 0, contiguous(v),
         contiguous(u), contiguous(groups), source, labels, weights, sorted_groups, n, ring, ruling.classes);
  return weights;
}

}  // namespace

Groups groups_of(c10::string_view which) {
  return which == "same" ? Groups::kSame : which == "other" ? Groups::kOther : Groups::kAny;
}

bool weighed(const Rows& rows) { return rows.positive_weights.has_value() || rows.negative_weights.has_value(); }

Ruling::Ruling(const Rule& rule, bool weighed)
    : positives(groups_of(rule.positive_groups)), negatives(groups_of(rule.negative_groups)) {
  if (rule.class_weights.has_value()) {
    const Tensor& W = *rule.class_weights;
    check_same_device("class_weights", W, rule.temperature);
    class_weights = at::stack({W, at::log(W)}).contiguous();
    classes = W.size(0);
  }
  exists = weighed || class_weights.has_value() || grouped();
}

Rows labelled_for(const Ruling& ruling, Rows rows) {
  if (ruling.classes > 0) rows.labels = rows.labels.to(at::kInt);
  return rows;
}

void add_rules(const Ruling& ruling, const Rows& from, Prepared& rows) {
  if (!ruling.exists) return;
  if (ruling.grouped() && from.groups.has_value()) rows.groups = at::empty({rows.n()}, rows.labels.options());
  rows.weights =
      row_weights(ruling, from.positive_weights, from.negative_weights,
                  rows.groups.has_value() ? from.groups : std::nullopt, rows.source, rows.labels, rows.groups, 0);
}

Tensor bank_weights(const Ruling& ruling, const BankRows& bank, const Tensor& labels) {
  const std::optional<Tensor> none;
  return row_weights(ruling, none, bank.negative_weights, none, none, labels, none, bank.x.size(1));
}

}  // namespace fastpixcon
