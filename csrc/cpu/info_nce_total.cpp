// info_nce, the total of its losses, and its gradients at once, on CPU tensors.
//
// Per step and pair of rows, in units of D multiply-adds: 1 and one for each gradient, for the dot products of a panel
// of anchors stay until their gradient is made of them. Beyond inputs and outputs memory for rows of float and a panel.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <memory>
#include <vector>

#include "common/checks.h"
#include "cpu/info_nce.h"
#include "cpu/panel.h"
#include "cpu/steps.h"

namespace fastpixcon::cpu {
namespace {

using at::Tensor;
constexpr int64_t kMostKept = int64_t{4} << 20;  // bytes of tiles: self contrast of some 1,024 rows, on a few threads

// One after the other, where panels of all threads, or tiles that are kept, would take too much.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> in_two_steps(const InfoNCETotal& call) {
  const auto [loss, log_sum, weight, mass] = info_nce(call.given);
  const Tensor d_loss = call.d_loss.has_value() ? call.d_loss->contiguous() : at::ones_like(loss);
  const InfoNCEBackward backward({d_loss, log_sum, weight, mass}, call.given, call.output_mask);
  const auto [d_anchors, d_contrast, d_temperature] = info_nce_gradients(backward, call.waiting());
  double sum = 0;
  for (int64_t i = 0; i < loss.size(0); ++i)
    if (mass.const_data_ptr<float>()[i] > 0)
      sum += static_cast<double>(d_loss.const_data_ptr<float>()[i]) * loss.const_data_ptr<float>()[i];
  Tensor total = at::empty({}, loss.options());
  total.fill_(sum);
  return {total, mass, d_anchors, d_contrast, d_temperature};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> info_nce_total(const InfoNCETotal& call) {
  const auto& [weights, given, wanted] = call;
  check_info_nce_total(call);
  const Tensor& x = given.anchors.x;
  const int64_t N = given.anchors.count();
  std::optional<Tensor> d_loss;
  if (weights.has_value()) d_loss = weights->contiguous();
  auto prepared = std::make_unique<Problem>(given, given.contrast.has_value() ? Gathered::kContrast : Gathered::kAll);
  if (prepared->self) prepared->take_larger_blocks();
  if (prepared->self ? prepared->kept_tiles() * 4 > kMostKept : Panel::size(*prepared) == 0) {
    prepared.reset();  // each step gathers its own
    return in_two_steps(call);
  }
  Problem& p = *prepared;
  const SortedRows& a = p.anchors;
  std::vector<double> d(a.n, 1.0);
  if (d_loss.has_value())
    for (int64_t i = 0; i < a.n; ++i) d[i] = d_loss->const_data_ptr<float>()[a.source[i]];
  const LossesAndGradients of = p.self ? losses_and_gradients_of_self(p, x, d, call.waiting(), wanted[0], wanted[2])
                                       : losses_and_gradients(p, x, d, call.waiting(), wanted[0], wanted[1], wanted[2]);
  p.forget_operands();

  const auto options = x.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous);
  Tensor total = at::empty({}, options), mass = at::zeros({N}, options);
  double sum = 0;
  float* mass_out = mass.mutable_data_ptr<float>();
  for (int64_t i = 0; i < a.n; ++i) {
    mass_out[a.source[i]] = static_cast<float>(of.positives.mass[i]);
    if (of.positives.mass[i] > 0) sum += d[i] * of.positives.loss[i];
  }
  total.fill_(sum);
  Tensor d_temperature = at::empty({}, given.rule.temperature.options());
  d_temperature.fill_(-of.d.along * of.d.scale * p.scale.inverse);
  Tensor d_contrast = at::empty({0}, options.dtype(call.waiting()));
  if (wanted[1] && !p.self)
    d_contrast = unsort_gradient(p.separate, given.contrast->x, of.d.columns.const_data_ptr<float>(), of.d.scale,
                                 call.waiting());
  return {total, mass, of.d_anchors, d_contrast, d_temperature};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CPU, m) { m.impl("info_nce_total", by_name<&info_nce_total>()); }

}  // namespace fastpixcon::cpu
