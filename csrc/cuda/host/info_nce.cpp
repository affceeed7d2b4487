// info_nce and its backward on CUDA tensors. Nothing is read back: what depends on values stays on the device.
//
// FLOP, self contrast: N^2 D forward (the triangle) and 4 N^2 D backward (all tiles, two products), 2 N^2 D / classes
// for the positives. Memory beyond inputs and outputs: at most 129 partial sums a row, a copy of the rows where they
// come unsorted, raw, not in whole panels or are cut into halves, and at most kMostPartialRows rows of float32.
#include "cuda/info_nce.h"

#include <ATen/ops/div.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gt.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "common/checks.h"
#include "cuda/host/problem.h"
#include "cuda/host/tensors.h"
#include "cuda/mean_loss.h"

namespace fastpixcon {
namespace {

using at::Tensor;

std::tuple<Tensor, Tensor, Tensor, Tensor> info_nce(const InfoNCE& call) {
  check_info_nce(call);
  const Tensor& x = call.anchors.x;
  const c10::DeviceGuard guard(x.device());
  const Problem p(call.anchors, call.contrast, call.rule, call.rows);
  const int64_t N = x.size(0);
  const auto options = x.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous);
  Tensor loss = at::empty({N}, options), log_sum = at::empty({N}, options), weight = at::empty({N}, options);
  Tensor mass = at::empty({N}, options);
  if (N == 0) return {loss, log_sum, weight, mass};
  const Sums sums = partial_sums(p);
  if (p.ruling.exists) {
    log_sum = log_of(sums.sums, sums.maxima, p.a, p.temperature);
    Sweep sweep = sweep_of(p, p.a, p.c, x.size(1));
    if (p.self) sweep.itself = itself_of(p.a, p.c, 0);
    std::tie(loss, weight, mass, std::ignore) = positives_of(sweep, log_sum, false, true);
    return {loss, log_sum, weight, mass};
  }
  launch(info_nce_positives_kernel(p.precision, p.fixed), dim3(ceil_div<int64_t>(N, kPositivesRows)),
         dim3(sweep_threads(p.precision, kPositivesRows)), p.shared(kPositivesRows), p.a.x, p.a.labels, p.c.x,
         p.c.labels, p.a.source, p.temperature, sums.sums, sums.maxima, loss, log_sum, weight, mass, N, p.c.n(),
         sums.sums.size(0), p.row_bytes(), p.self, p.negatives(), p.resident(kPositivesRows));
  return {loss, log_sum, weight, mass};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> info_nce_mean(const InfoNCEMean& call) {
  check_info_nce_mean(call);
  const c10::DeviceGuard guard(call.given.anchors.x.device());
  const auto [loss, log_sum, weight, mass] = info_nce(call.given);
  std::optional<Tensor> weights;
  if (call.anchor_weights.has_value()) weights = call.anchor_weights->contiguous();
  Tensor value = at::empty({}, loss.options()), share = at::empty({}, loss.options());
  launch(mean_loss_kernel(), dim3(1), dim3(kMeanThreads), 0, loss, mass, weights, value, share, loss.size(0),
         call.scale, call.mean);
  return {value, share, log_sum, weight, mass};
}

std::tuple<Tensor, Tensor, Tensor> info_nce_backward(const InfoNCEBackward& call) {
  const auto& [statistics, given, wanted] = call;
  const Tensor &x = given.anchors.x, &temperature = given.rule.temperature;
  check_info_nce(given);
  check_statistics(x, statistics);
  const c10::DeviceGuard guard(x.device());
  const Problem p(given.anchors, given.contrast, given.rule, given.rows);
  const int64_t N = x.size(0), D = x.size(1);
  const bool wants_contrast = wanted[1] && !p.self;
  const auto options = x.options().memory_format(at::MemoryFormat::Contiguous);
  Tensor d_anchors = at::empty({0}, options), d_contrast = at::empty({0}, options);
  Tensor d_temperature = at::empty_like(temperature);
  if (N == 0) {
    d_temperature.zero_();
    if (wants_contrast) d_contrast = at::zeros(given.contrast->x.sizes(), options);
    if (wanted[0]) d_anchors = at::empty({N, D}, options);
    return {d_anchors, d_contrast, d_temperature};
  }
  Sides sides;
  if (p.scales()) sides.largest = largest_of(statistics.d_loss);
  sides.x_terms = terms_of(p.a, statistics, sides.largest, p.negatives(), p.fixed);
  if (p.self) sides.y_terms = sides.x_terms;
  if (wanted[0] || wanted[2]) {
    std::optional<Tensor> along;
    if (wanted[2]) along = at::empty({N}, options.dtype(at::kFloat));
    const Tensor d_x = gradient(p, p.a, p.c, sides, D, along, std::nullopt, x.scalar_type());
    if (wanted[0]) d_anchors = d_x;
    // sum_ij G_ij s_ij, which self contrast counts twice
    if (along.has_value()) d_temperature = at::div(at::mul(at::sum(*along), p.self ? -0.5 : -1.0), temperature);
  }
  if (wants_contrast)
    d_contrast = p.c.n() == 0 ? at::empty({0, D}, options)
                              : gradient(p, p.c, p.a, sides.swapped(), D, std::nullopt, std::nullopt, x.scalar_type());
  return {d_anchors, d_contrast, d_temperature};
}

// One after the other: nothing is gained by making them at once.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> info_nce_total(const InfoNCETotal& call) {
  check_info_nce_total(call);
  const c10::DeviceGuard guard(call.given.anchors.x.device());
  const auto [loss, log_sum, weight, mass] = info_nce(call.given);
  const Tensor d_loss = call.d_loss.has_value() ? *call.d_loss : at::ones_like(loss);
  const Tensor total = at::sum(at::where(at::gt(mass, 0), at::mul(d_loss, loss), 0));
  const auto [d_anchors, d_contrast, d_temperature] =
      info_nce_backward(InfoNCEBackward({d_loss, log_sum, weight, mass}, call.given, call.output_mask));
  return {total, mass, d_anchors.to(call.waiting()), d_contrast.to(call.waiting()), d_temperature};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CUDA, m) {
  m.impl("info_nce", by_name<&info_nce>());
  m.impl("info_nce_mean", by_name<&info_nce_mean>());
  m.impl("info_nce_total", by_name<&info_nce_total>());
  m.impl("info_nce_backward", by_name<&info_nce_backward>());
}

}  // namespace fastpixcon
