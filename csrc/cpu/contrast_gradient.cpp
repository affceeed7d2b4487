// contrast_gradient on the CPU: the backward over one contrast set of several.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "common/checks.h"
#include "cpu/steps.h"

namespace fastpixcon::cpu {
namespace {

using at::Tensor;

std::tuple<Tensor, Tensor, Tensor> contrast_gradient(const ContrastGradient& call) {
  const auto& [statistics, columns, set, wanted] = call;
  check_contrast_gradient(call);
  Problem p(set, call.mutual());
  const bool wants_contrast = wanted[1] && !p.self;
  const Gradients d =
      gradients(p, statistics, columns.has_value() ? &*columns : nullptr, wanted[0], wants_contrast, wanted[2]);
  p.forget_operands();
  const auto options = set.anchors.x.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous);
  const Tensor nothing = at::empty({0}, options);
  Tensor d_temperature = at::empty({}, set.rule.temperature.options());
  d_temperature.fill_(-d.along * d.scale * p.scale.inverse);
  const auto unsorted = [&](const SortedRows& rows, const Rows& in, const Tensor& of) {
    return unsort_gradient(rows, in.x, of.const_data_ptr<float>(), d.scale, at::kFloat);
  };
  return {wanted[0] ? unsorted(p.anchors, set.anchors, d.rows) : nothing,
          wants_contrast ? unsorted(p.separate, *set.contrast, d.columns) : nothing.clone(), d_temperature};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CPU, m) { m.impl("contrast_gradient", by_name<&contrast_gradient>()); }

}  // namespace fastpixcon::cpu
