// contrast_positives on the CPU: the second step over one contrast set of several.
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "common/checks.h"
#include "cpu/contrast.h"

namespace fastpixcon::cpu {
namespace {

using at::Tensor;

std::vector<double> sorted(const Tensor& log_sum_in, const SortedRows& set) {
  const Tensor log_sum = log_sum_in.contiguous();
  const float* from = log_sum.const_data_ptr<float>();
  std::vector<double> nats(set.n);
  for (int64_t i = 0; i < set.n; ++i) nats[i] = from[set.source[i]];
  return nats;
}

std::tuple<Tensor, Tensor, Tensor> unsorted(const Positives& of, const SortedRows& set, int64_t N, const Tensor& like) {
  const auto options = like.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous);
  Tensor loss = at::zeros({N}, options), weight = at::zeros({N}, options);
  Tensor count = at::zeros({N}, options.dtype(at::kInt));
  float *to_loss = loss.mutable_data_ptr<float>(), *to_weight = weight.mutable_data_ptr<float>();
  int32_t* to_count = count.mutable_data_ptr<int32_t>();
  for (int64_t i = 0; i < static_cast<int64_t>(of.loss.size()); ++i) {
    const int64_t to = set.source[i];
    to_loss[to] = static_cast<float>(of.loss[i]);
    to_weight[to] = static_cast<float>(of.weight[i]);
    to_count[to] = static_cast<int32_t>(of.count[i]);
  }
  return {loss, weight, count};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> contrast_positives(
    const Tensor& anchors, const Tensor& anchor_labels, const std::optional<Tensor>& contrast,
    const std::optional<Tensor>& contrast_labels, const Tensor& temperature, const Tensor& log_sum,
    const std::optional<Tensor>& column_log_sum, c10::string_view denominator, bool, bool,
    std::optional<int64_t> diagonal, const std::optional<Tensor>& mined, const std::optional<Tensor>& seed) {
  const bool mutual = column_log_sum.has_value();
  check_contrast(anchors, anchor_labels, contrast, contrast_labels, temperature, denominator, diagonal, mutual, mined,
                 seed);
  check_statistic("log_sum", log_sum, at::kFloat, anchors.size(0), anchors);
  if (mutual) check_statistic("column_log_sum", *column_log_sum, at::kFloat, contrast->size(0), anchors);
  const Problem p(anchors, anchor_labels, contrast, contrast_labels, temperature, denominator, "unit", mutual, diagonal,
                  mining_of(mined, seed, diagonal));
  const PositivesOfBoth of = positives(
      p, {sorted(log_sum, p.anchors), mutual ? sorted(*column_log_sum, p.contrast()) : std::vector<double>()});
  return std::tuple_cat(unsorted(of.rows, p.anchors, anchors.size(0), anchors),
                        unsorted(of.columns, p.contrast(), mutual ? contrast->size(0) : 0, anchors));
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CPU, m) { m.impl("contrast_positives", contrast_positives); }

}  // namespace fastpixcon::cpu
