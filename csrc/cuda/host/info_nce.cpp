// info_nce and its backward on CUDA tensors. Nothing is read back: what depends on values stays on the device.
//
// FLOP, self contrast: N^2 D forward (the triangle) and 4 N^2 D backward (all tiles, two products), 2 N^2 D / classes
// for the positives. Memory beyond inputs and outputs: at most 129 partial sums a row (kernels of sm_90a: 224 and a
// copy of the rows in panels), a copy of the rows where they come unsorted, raw, not in whole panels or are cut into
// halves, and at most kMostPartialRows rows of float32.
#include "cuda/info_nce.h"

#include <ATen/ops/div.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "common/checks.h"
#include "cuda/host/info_nce.h"
#include "cuda/host/problem.h"
#include "cuda/host/tensors.h"
#include "cuda/mean_loss.h"

namespace fastpixcon {
namespace {

using at::Tensor;

// Of each anchor.
struct Losses {
  Tensor loss, log_sum, weight, mass;  // [N] float32

  explicit Losses(const Tensor& x) {
    const auto options = x.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous);
    for (Tensor* each : {&loss, &log_sum, &weight, &mass}) *each = at::empty({x.size(0)}, options);
  }
};

Losses losses_of(const Problem& p, const Tensor& x) {
  const int64_t N = x.size(0);
  Losses of(x);
  if (N == 0) return of;
  const Sums sums = partial_sums(p);
  if (p.ruling.exists) {
    of.log_sum = log_of(sums.sums, sums.maxima, p.a, p.temperature);
    Sweep sweep = sweep_of(p, p.a, p.c, x.size(1));
    if (p.self) sweep.itself = itself_of(p.a, p.c, 0);
    std::tie(of.loss, of.weight, of.mass, std::ignore) = positives_of(sweep, of.log_sum, false, true);
    return of;
  }
  launch(info_nce_positives_kernel(p.precision, p.fixed), dim3(ceil_div<int64_t>(N, kPositivesRows)),
         dim3(sweep_threads(p.precision, kPositivesRows)), p.shared(kPositivesRows), p.a.x, p.a.labels, p.c.x,
         p.c.labels, p.a.source, p.temperature, sums.sums, sums.maxima, of.loss, of.log_sum, of.weight, of.mass, N,
         p.c.n(), sums.sums.size(0), p.row_bytes(), p.self, p.negatives(), p.resident(kPositivesRows));
  return of;
}

struct Mean {
  Tensor value, share;  // []
};

Mean mean_of(const Losses& of, const std::optional<Tensor>& weights, double scale, bool mean) {
  Mean out{at::empty({}, of.loss.options()), at::empty({}, of.loss.options())};
  launch(mean_loss_kernel(), dim3(1), dim3(kMeanThreads), 0, of.loss, of.mass, weights, out.value, out.share,
         of.loss.size(0), scale, mean);
  return out;
}

std::optional<Tensor> dense(const std::optional<Tensor>& x) {
  return x.has_value() ? std::optional(x->contiguous()) : std::nullopt;
}

struct Gradients {
  Tensor anchors, contrast, temperature;
};

// Of rows in a dtype.
Gradients gradients_of(const Problem& p, const Statistics& statistics, const InfoNCE& given,
                       const std::array<bool, 3>& wanted, at::ScalarType dtype) {
  const Tensor& x = given.anchors.x;
  const int64_t N = x.size(0), D = x.size(1);
  const bool wants_contrast = wanted[1] && !p.self;
  const auto options = x.options().dtype(dtype).memory_format(at::MemoryFormat::Contiguous);
  Gradients out{at::empty({0}, options), at::empty({0}, options), at::empty_like(given.rule.temperature)};
  if (N == 0) {
    out.temperature.zero_();
    if (wants_contrast) out.contrast = at::zeros(given.contrast->x.sizes(), options);
    if (wanted[0]) out.anchors = at::empty({N, D}, options);
    return out;
  }
  Sides sides;
  if (p.scales()) sides.largest = largest_of(statistics.d_loss);
  sides.x_terms = terms_of(p.a, statistics, sides.largest, p.negatives(), p.fixed);
  if (p.self) sides.y_terms = sides.x_terms;
  if (wanted[0] || wanted[2]) {
    std::optional<Tensor> along;
    if (wanted[2]) along = at::empty({N}, options.dtype(at::kFloat));
    const Tensor d_x = gradient(p, p.a, p.c, sides, D, along, std::nullopt, dtype);
    if (wanted[0]) out.anchors = d_x;
    // sum_ij G_ij s_ij, which self contrast counts twice
    if (along.has_value())
      out.temperature = at::div(at::mul(at::sum(*along), p.self ? -0.5 : -1.0), given.rule.temperature);
  }
  if (wants_contrast)
    out.contrast = p.c.n() == 0 ? at::empty({0, D}, options)
                                : gradient(p, p.c, p.a, sides.swapped(), D, std::nullopt, std::nullopt, dtype);
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> info_nce(const InfoNCE& call) {
  check_info_nce(call);
  const c10::DeviceGuard guard(call.anchors.x.device());
  const Losses of = losses_of(Problem(call.anchors, call.contrast, call.rule, call.rows), call.anchors.x);
  return {of.loss, of.log_sum, of.weight, of.mass};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> info_nce_mean(const InfoNCEMean& call) {
  check_info_nce_mean(call);
  const InfoNCE& given = call.given;
  const c10::DeviceGuard guard(given.anchors.x.device());
  const Losses of = losses_of(Problem(given.anchors, given.contrast, given.rule, given.rows), given.anchors.x);
  const Mean mean = mean_of(of, dense(call.anchor_weights), call.scale, call.mean);
  return {mean.value, mean.share, of.log_sum, of.weight, of.mass};
}

std::tuple<Tensor, Tensor, Tensor> info_nce_backward(const InfoNCEBackward& call) {
  const auto& [statistics, given, wanted] = call;
  const Tensor& x = given.anchors.x;
  check_info_nce(given);
  check_statistics(x, statistics);
  const c10::DeviceGuard guard(x.device());
  const Problem p(given.anchors, given.contrast, given.rule, given.rows);
  const Gradients d = gradients_of(p, statistics, given, wanted, x.scalar_type());
  return {d.anchors, d.contrast, d.temperature};
}

}  // namespace

// Rows are put in order and prepared once.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> info_nce_at_once(const InfoNCEAtOnce& call) {
  check_info_nce_mean(call.of);
  const InfoNCE& given = call.of.given;
  const Tensor& x = given.anchors.x;
  const c10::DeviceGuard guard(x.device());
  const Problem p(given.anchors, given.contrast, given.rule, given.rows);
  const Losses of = losses_of(p, x);
  const std::optional<Tensor> weights = dense(call.of.anchor_weights);
  const Mean mean = mean_of(of, weights, call.of.scale, call.of.mean);
  const Tensor d_loss = weights.has_value() ? at::mul(mean.share, *weights) : mean.share.expand({x.size(0)});
  const Gradients d =
      gradients_of(p, {d_loss, of.log_sum, of.weight, of.mass}, given, call.output_mask, call.waiting());
  return {mean.value, of.mass, d.anchors, d.contrast, d.temperature};
}

TORCH_LIBRARY_IMPL(fastpixcon_native, CUDA, m) {
  m.impl("info_nce", by_name<&info_nce>());
  m.impl("info_nce_mean", by_name<&info_nce_mean>());
  m.impl("info_nce_at_once", by_name<&info_nce_at_once>());
  m.impl("info_nce_backward", by_name<&info_nce_backward>());
}

}  // namespace fastpixcon
