// contrast_sums, contrast_positives and contrast_gradient on CUDA tensors, by info_nce's kernels; by sweeps
// (cuda/contrast.h) the positives, what is mined, and sums that leave out an anchor among its contrast rows.
//
// FLOP: as info_nce, but that mined self contrast has no triangle: 2 N^2 D of sums.
#include "cuda/host/contrast.h"

#include <ATen/ops/abs.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/div.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "common/checks.h"
#include "common/hash.h"
#include "cuda/host/tensors.h"
#include "cuda/info_nce.h"

namespace fastpixcon {
namespace {

using at::Tensor;

// Rows as anchors against others, of which row i + diagonal is row i itself.
Sweep sweep_of(const Problem& p, const Prepared& x, const Prepared& y, int64_t D, const Diagonal& diagonal) {
  Sweep sweep = sweep_of(p, x, y, D);
  if (diagonal.has_value()) sweep.itself = itself_of(x, y, *diagonal);
  return sweep;
}

Diagonal reversed(const Diagonal& diagonal) { return diagonal.has_value() ? Diagonal(-*diagonal) : std::nullopt; }

// Copies: gcc takes the empty optionals that std::swap would move for uninitialised ones.
Problem swapped(const Problem& p) {
  Problem other = p;
  other.a = p.c;
  other.c = p.a;
  return other;
}

}  // namespace

Problem problem_of(const ContrastSet& set) { return Problem(set.anchors, set.contrast, set.rule, "unit"); }

Tensor log_sum_of(const ContrastSet& set, const Problem& p, const Diagonal& itself) {
  // An anchor is of its own class: among negatives it is not.
  const bool needs_sweep = set.pairs.mined.has_value() || (!p.self && !p.apart() && itself.has_value());
  if (!needs_sweep) {
    if (p.a.n() == 0) return at::empty({0}, p.a.x.options().dtype(at::kFloat));
    const Sums partial = partial_sums(p);
    return log_of(partial.sums, partial.maxima, p.a, p.temperature);
  }
  Sweep sweep = sweep_of(p, p.a, p.c, set.anchors.x.size(1), p.self ? Diagonal(0) : itself);
  sweep.mining = mining_of(set.pairs, p.a, kBatchStream);
  return std::get<0>(sums_of(sweep, p.fixed, false));
}

Sweep positives_sweep(const ContrastSet& set, const Problem& p) {
  Sweep rows = sweep_of(p, p.a, p.c, set.anchors.x.size(1), p.self ? Diagonal(0) : set.pairs.diagonal);
  rows.mining = mining_of(set.pairs, p.a, kBatchStream);
  return rows;
}

namespace {

std::tuple<Tensor, Tensor> contrast_sums(const ContrastSums& call) {
  const auto& [set, mutual] = call;
  check_contrast(set, mutual);
  const c10::DeviceGuard guard(set.anchors.x.device());
  const Problem p = problem_of(set);
  const Tensor log_sum = log_sum_of(set, p, set.pairs.diagonal);
  return {log_sum,
          mutual ? log_sum_of(set, swapped(p), reversed(set.pairs.diagonal)) : at::empty({0}, log_sum.options())};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> contrast_positives(const ContrastPositives& call) {
  const ContrastSet& set = call.set;
  check_contrast_positives(call);
  const c10::DeviceGuard guard(set.anchors.x.device());
  const Problem p = problem_of(set);
  const auto [loss, weight, mass, no_pull] = positives_of(positives_sweep(set, p), call.log_sum, false);
  if (!call.mutual()) {
    const auto nothing = [](const Tensor& like) { return at::empty({0}, like.options()); };
    return {loss, weight, mass, nothing(loss), nothing(weight), nothing(mass)};
  }
  const Sweep columns = sweep_of(p, p.c, p.a, set.anchors.x.size(1), reversed(set.pairs.diagonal));
  const auto [column_loss, column_weight, column_mass, no_column_pull] =
      positives_of(columns, *call.column_log_sum, false);
  return {loss, weight, mass, column_loss, column_weight, column_mass};
}

std::tuple<Tensor, Tensor, Tensor> contrast_gradient(const ContrastGradient& call) {
  const auto& [statistics, columns, set, wanted] = call;
  check_contrast_gradient(call);
  const Tensor &anchors = set.anchors.x, &temperature = set.rule.temperature;
  const c10::DeviceGuard guard(anchors.device());
  const Problem p = problem_of(set);
  const int64_t N = anchors.size(0), D = anchors.size(1), M = p.c.n();
  const bool wants_contrast = wanted[1] && !p.self;
  const auto options = anchors.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous);
  Tensor d_anchors = at::empty({0}, options), d_contrast = at::empty({0}, options);
  Tensor d_temperature = at::empty_like(temperature);
  if (N == 0 || M == 0) {
    d_temperature.zero_();
    if (wanted[0]) d_anchors = at::zeros({N, D}, options);
    if (wants_contrast) d_contrast = at::zeros({M, D}, options);
    return {d_anchors, d_contrast, d_temperature};
  }

  Sides sides;
  if (p.scales()) {
    sides.largest = largest_of(statistics.d_loss);
    if (columns.has_value()) sides.largest = at::maximum(*sides.largest, at::amax(at::abs(columns->d_loss)));
  }
  const bool fixed = p.fixed && !set.pairs.mined.has_value();
  sides.x_terms = terms_of(p.a, statistics, sides.largest, p.negatives(), fixed);
  if (p.self) sides.y_terms = sides.x_terms;
  if (columns.has_value()) sides.y_terms = terms_of(p.c, *columns, sides.largest, p.negatives(), fixed);
  const std::optional<Tensor> mining = mining_of(set.pairs, p.a, kBatchStream);

  // Along [n]: of every row the product with its gradient.
  const auto gradient_for = [&](const Prepared& x, const Prepared& y, const Sides& of, const Diagonal& itself,
                                const std::optional<Tensor>& along) {
    const Diagonal own = p.self ? std::nullopt : itself;
    if (!mining.has_value())
      return gradient(p, x, y, of, D, along, own.has_value() ? std::optional(itself_of(x, y, *own)) : std::nullopt,
                      at::kFloat);
    Sweep sweep = sweep_of(p, x, y, D, p.self ? Diagonal(0) : itself);
    sweep.terms = of.x_terms, sweep.column_terms = of.y_terms;
    if (of.x_terms.has_value()) sweep.mining = mining;
    if (of.y_terms.has_value()) sweep.column_mining = mining;
    Tensor d_x = at::empty({x.n(), D}, options);
    project(gradient_of(sweep, of.largest), x, d_x, along);
    return d_x;
  };
  if (wanted[0] || wanted[2]) {
    std::optional<Tensor> along;
    if (wanted[2]) along = at::empty({N}, options);
    const Tensor d_x = gradient_for(p.a, p.c, sides, set.pairs.diagonal, along);
    if (wanted[0]) d_anchors = d_x;
    // sum_ij G_ij s_ij, which self contrast counts twice
    if (along.has_value()) d_temperature = at::div(at::mul(at::sum(*along), p.self ? -0.5 : -1.0), temperature);
  }
  if (wants_contrast) d_contrast = gradient_for(p.c, p.a, sides.swapped(), reversed(set.pairs.diagonal), std::nullopt);
  return {d_anchors, d_contrast, d_temperature};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CUDA, m) {
  m.impl("contrast_sums", by_name<&contrast_sums>());
  m.impl("contrast_positives", by_name<&contrast_positives>());
  m.impl("contrast_gradient", by_name<&contrast_gradient>());
}

}  // namespace fastpixcon
