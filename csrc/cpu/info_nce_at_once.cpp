// The mean of the losses of info_nce, and its gradients at once, on CPU tensors.
//
// Per step and pair of rows, in units of D multiply-adds: 1 and one for each gradient, for the dot products of a panel
// of anchors stay until their gradient is made of them. Beyond inputs and outputs memory for rows of float and a panel.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <memory>
#include <vector>

#include "common/checks.h"
#include "cpu/info_nce.h"
#include "cpu/mean.h"
#include "cpu/panel.h"
#include "cpu/steps.h"

namespace fastpixcon::cpu {
namespace {

using at::Tensor;
constexpr int64_t kMostKept = int64_t{4} << 20;  // bytes of tiles: self contrast of some 1,024 rows, on a few threads

// One after the other, where panels of all threads, or tiles that are kept, would take too much.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> in_two_steps(const InfoNCEAtOnce& call) {
  const InfoNCE& given = call.of.given;
  const auto [value, share, log_sum, weight, mass] = info_nce_mean(call.of);
  const AnchorWeights weights(call.of);
  const Tensor d_loss = weights.given().has_value() ? at::mul(*weights.given(), share) : share.expand_as(mass);
  const InfoNCEBackward backward({d_loss, log_sum, weight, mass}, given, call.output_mask);
  const auto [d_anchors, d_contrast, d_temperature] = info_nce_gradients(backward, call.waiting());
  return {value, mass, d_anchors, d_contrast, d_temperature};
}

// d_loss of sorted anchors: how many count, labels and rules tell before there are losses.
std::vector<double> d_losses(const Problem& p, const InfoNCEMean& call) {
  const AnchorWeights weights(call);
  const std::vector<bool> have_positives = p.have_positives();
  std::vector<double> d(p.anchors.n);
  double counted = 0;
  for (int64_t i = 0; i < p.anchors.n; ++i) {
    d[i] = weights.at(p.anchors.source[i]);
    if (have_positives[i]) counted += d[i];
  }
  for (double& each : d) each *= share_of(call, counted);
  return d;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> info_nce_at_once(const InfoNCEAtOnce& call) {
  check_info_nce_mean(call.of);
  const InfoNCE& given = call.of.given;
  const std::array<bool, 3>& wanted = call.output_mask;
  const Tensor& x = given.anchors.x;
  auto prepared = std::make_unique<Problem>(given, given.contrast.has_value() ? Gathered::kContrast : Gathered::kAll);
  prepared->take_larger_blocks();
  if (prepared->self ? prepared->kept_tiles() * 4 > kMostKept : Panel::size(*prepared) == 0) {
    prepared.reset();  // each step gathers its own
    return in_two_steps(call);
  }
  Problem& p = *prepared;
  const SortedRows& a = p.anchors;
  const std::vector<double> d = d_losses(p, call.of);
  const LossesAndGradients of = p.self ? losses_and_gradients_of_self(p, x, d, call.waiting(), wanted[0], wanted[2])
                                       : losses_and_gradients(p, x, d, call.waiting(), wanted[0], wanted[1], wanted[2]);
  p.forget_operands();

  const auto options = x.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous);
  Tensor mass = at::zeros({given.anchors.count()}, options);
  float* mass_out = mass.mutable_data_ptr<float>();
  double value = 0;
  for (int64_t i = 0; i < a.n; ++i) {
    mass_out[a.source[i]] = static_cast<float>(of.positives.mass[i]);
    if (of.positives.mass[i] > 0) value += d[i] * of.positives.loss[i];
  }
  Tensor d_temperature = at::empty({}, given.rule.temperature.options());
  d_temperature.fill_(-of.d.along * of.d.scale * p.scale.inverse);
  Tensor d_contrast = at::empty({0}, options.dtype(call.waiting()));
  if (wanted[1] && !p.self)
    d_contrast = unsort_gradient(p.separate, given.contrast->x, of.d.columns.const_data_ptr<float>(), of.d.scale,
                                 call.waiting());
  return {scalar(value, mass), mass, of.d_anchors, d_contrast, d_temperature};
}

TORCH_LIBRARY_IMPL(fastpixcon_native, CPU, m) { m.impl("info_nce_at_once", by_name<&info_nce_at_once>()); }

}  // namespace fastpixcon::cpu
