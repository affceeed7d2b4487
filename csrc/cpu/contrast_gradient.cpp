// contrast_gradient on the CPU: the backward over one contrast set of several.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <array>

#include "common/checks.h"
#include "cpu/contrast.h"

namespace fastpixcon::cpu {
namespace {

using at::Tensor;

std::tuple<Tensor, Tensor, Tensor> contrast_gradient(
    const Tensor& d_loss, const std::optional<Tensor>& column_d_loss, const Tensor& anchors,
    const Tensor& anchor_labels, const std::optional<Tensor>& contrast, const std::optional<Tensor>& contrast_labels,
    const Tensor& temperature, const Tensor& log_sum, const Tensor& weight, const Tensor& count,
    const std::optional<Tensor>& column_log_sum, const std::optional<Tensor>& column_weight,
    const std::optional<Tensor>& column_count, c10::string_view denominator, bool, bool,
    std::optional<int64_t> diagonal, const std::optional<Tensor>& mined, const std::optional<Tensor>& seed,
    std::array<bool, 3> output_mask) {
  const bool mutual = column_d_loss.has_value();
  check_contrast(anchors, anchor_labels, contrast, contrast_labels, temperature, denominator, diagonal, mutual, mined,
                 seed);
  check_statistics(anchors, d_loss, log_sum, weight, count);
  std::optional<Statistics> columns;
  if (mutual) {
    TORCH_CHECK_VALUE(column_log_sum.has_value() && column_weight.has_value() && column_count.has_value(),
                      "column_log_sum, column_weight, column_count: got None, want [M] with column_d_loss");
    check_statistics(*contrast, *column_d_loss, *column_log_sum, *column_weight, *column_count);
    columns = Statistics{*column_d_loss, *column_log_sum, *column_weight, *column_count};
  }
  Problem p(anchors, anchor_labels, contrast, contrast_labels, temperature, denominator, "unit", mutual, diagonal,
            mining_of(mined, seed, diagonal));
  const bool wants_contrast = output_mask[1] && !p.self;
  const Gradients d = gradients(p, {d_loss, log_sum, weight, count}, columns.has_value() ? &*columns : nullptr,
                                output_mask[0], wants_contrast, output_mask[2]);
  p.forget_operands();
  const auto options = anchors.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous);
  const Tensor nothing = at::empty({0}, options);
  Tensor d_temperature = at::empty({}, temperature.options());
  d_temperature.fill_(-d.along * d.scale * p.scale.inverse);
  return {output_mask[0] ? unsort_gradient(p.anchors, anchors, d.rows.const_data_ptr<float>(), d.scale, at::kFloat)
                         : nothing,
          wants_contrast
              ? unsort_gradient(p.separate, *contrast, d.columns.const_data_ptr<float>(), d.scale, at::kFloat)
              : nothing.clone(),
          d_temperature};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CPU, m) { m.impl("contrast_gradient", contrast_gradient); }

}  // namespace fastpixcon::cpu
