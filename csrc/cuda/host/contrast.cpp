// contrast_sums, contrast_positives and contrast_gradient on CUDA tensors, by info_nce's kernels; by sweeps
// (cuda/contrast.h) the positives, what is mined, and sums that leave out an anchor among its contrast rows.
//
// FLOP: as info_nce, but that mined self contrast has no triangle: 2 N^2 D of sums.
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
#include "cuda/host/problem.h"
#include "cuda/host/sweep.h"
#include "cuda/host/tensors.h"
#include "cuda/info_nce.h"

namespace fastpixcon {
namespace {

using at::Tensor;
using Diagonal = std::optional<int64_t>;

// Rows as anchors against others, of which row i + diagonal is row i itself.
Sweep sweep_of(const Problem& p, const Rows& x, const Rows& y, int64_t D, const Diagonal& diagonal) {
  Sweep sweep{x, y, D, p.temperature, p.negatives};
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

std::tuple<Tensor, Tensor> contrast_sums(const Tensor& anchors, const Tensor& anchor_labels,
                                         const std::optional<Tensor>& contrast,
                                         const std::optional<Tensor>& contrast_labels, const Tensor& temperature,
                                         c10::string_view denominator, bool fixed_shift, bool is_sorted,
                                         Diagonal diagonal, bool mutual, const std::optional<Tensor>& mined,
                                         const std::optional<Tensor>& seed) {
  check_contrast(anchors, anchor_labels, contrast, contrast_labels, temperature, denominator, diagonal, mutual, mined,
                 seed);
  const c10::DeviceGuard guard(anchors.device());
  const Problem p(anchors, anchor_labels, contrast, contrast_labels, temperature, denominator, "unit", fixed_shift,
                  is_sorted);
  const auto sums = [&](const Problem& of, const Diagonal& itself) {
    // An anchor is of its own class: among negatives it is not.
    const bool needs_sweep = mined.has_value() || (!of.self && !of.negatives && itself.has_value());
    if (!needs_sweep) {
      if (of.a.n() == 0) return at::empty({0}, of.a.x.options().dtype(at::kFloat));
      const Sums partial = partial_sums(of);
      return log_of(partial.sums, partial.maxima, of.a, temperature);
    }
    Sweep sweep = sweep_of(of, of.a, of.c, anchors.size(1), of.self ? Diagonal(0) : itself);
    sweep.mining = mining_of(mined, seed, of.a, itself.value_or(0), kBatchStream);
    return std::get<0>(sums_of(sweep, of.fixed, false));
  };
  const Tensor log_sum = sums(p, diagonal);
  return {log_sum, mutual ? sums(swapped(p), reversed(diagonal)) : at::empty({0}, log_sum.options())};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> contrast_positives(
    const Tensor& anchors, const Tensor& anchor_labels, const std::optional<Tensor>& contrast,
    const std::optional<Tensor>& contrast_labels, const Tensor& temperature, const Tensor& log_sum,
    const std::optional<Tensor>& column_log_sum, c10::string_view denominator, bool fixed_shift, bool is_sorted,
    Diagonal diagonal, const std::optional<Tensor>& mined, const std::optional<Tensor>& seed) {
  const bool mutual = column_log_sum.has_value();
  check_contrast(anchors, anchor_labels, contrast, contrast_labels, temperature, denominator, diagonal, mutual, mined,
                 seed);
  check_statistic("log_sum", log_sum, at::kFloat, anchors.size(0), anchors);
  if (mutual) check_statistic("column_log_sum", *column_log_sum, at::kFloat, contrast->size(0), anchors);
  const c10::DeviceGuard guard(anchors.device());
  const Problem p(anchors, anchor_labels, contrast, contrast_labels, temperature, denominator, "unit", fixed_shift,
                  is_sorted);
  const int64_t D = anchors.size(1);
  if (p.self) diagonal = 0;
  Sweep rows = sweep_of(p, p.a, p.c, D, diagonal);
  rows.mining = mining_of(mined, seed, p.a, diagonal.value_or(0), kBatchStream);
  const auto [loss, weight, count, no_pull] = positives_of(rows, log_sum, false);
  if (!mutual) {
    const auto nothing = [](const Tensor& like) { return at::empty({0}, like.options()); };
    return {loss, weight, count, nothing(loss), nothing(weight), nothing(count)};
  }
  const Sweep columns = sweep_of(p, p.c, p.a, D, reversed(diagonal));
  const auto [column_loss, column_weight, column_count, no_column_pull] = positives_of(columns, *column_log_sum, false);
  return {loss, weight, count, column_loss, column_weight, column_count};
}

// What a loss says of its rows as anchors.
struct Statistics {
  Tensor d_loss, log_sum, weight, count;  // [n]

  void check(int64_t n, const Tensor& on) const {
    for (const Tensor& x : {d_loss, log_sum, weight}) check_statistic("d_loss, log_sum, weight", x, at::kFloat, n, on);
    check_statistic("count", count, at::kInt, n, on);
  }
  // [3, n], see InfoNCETermsKernel.
  Tensor terms(const Rows& rows, const std::optional<Tensor>& largest, bool negatives, bool fixed) const {
    const int64_t n = rows.n();
    Tensor terms = at::empty({3, n}, log_sum.options());
    launch(info_nce_terms_kernel(), dim3(ceil_div<int64_t>(n, kRowwiseThreads)), dim3(kRowwiseThreads), 0, d_loss,
           log_sum.contiguous(), weight.contiguous(), count.contiguous(), rows.source, largest, terms, n,
           d_loss.stride(0), negatives, fixed);
    return terms;
  }
};

std::tuple<Tensor, Tensor, Tensor> contrast_gradient(
    const Tensor& d_loss, const std::optional<Tensor>& column_d_loss, const Tensor& anchors,
    const Tensor& anchor_labels, const std::optional<Tensor>& contrast, const std::optional<Tensor>& contrast_labels,
    const Tensor& temperature, const Tensor& log_sum, const Tensor& weight, const Tensor& count,
    const std::optional<Tensor>& column_log_sum, const std::optional<Tensor>& column_weight,
    const std::optional<Tensor>& column_count, c10::string_view denominator, bool fixed_shift, bool is_sorted,
    Diagonal diagonal, const std::optional<Tensor>& mined, const std::optional<Tensor>& seed,
    std::array<bool, 3> output_mask) {
  const bool mutual = column_d_loss.has_value();
  check_contrast(anchors, anchor_labels, contrast, contrast_labels, temperature, denominator, diagonal, mutual, mined,
                 seed);
  for (const auto& x : {column_log_sum, column_weight, column_count})
    TORCH_CHECK_VALUE(x.has_value() == mutual, "column_log_sum, column_weight, column_count: want all with ",
                      "column_d_loss, or none");
  const c10::DeviceGuard guard(anchors.device());
  const Problem p(anchors, anchor_labels, contrast, contrast_labels, temperature, denominator, "unit", fixed_shift,
                  is_sorted);
  const int64_t N = anchors.size(0), D = anchors.size(1), M = p.c.n();
  const Statistics of_rows{d_loss, log_sum, weight, count};
  of_rows.check(N, anchors);
  std::optional<Statistics> of_columns;
  if (mutual) {
    of_columns = Statistics{*column_d_loss, *column_log_sum, *column_weight, *column_count};
    of_columns->check(M, anchors);
  }
  const bool wants_contrast = output_mask[1] && !p.self;
  const auto options = anchors.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous);
  Tensor d_anchors = at::empty({0}, options), d_contrast = at::empty({0}, options);
  Tensor d_temperature = at::empty_like(temperature);
  if (N == 0 || M == 0) {
    d_temperature.zero_();
    if (output_mask[0]) d_anchors = at::zeros({N, D}, options);
    if (wants_contrast) d_contrast = at::zeros({M, D}, options);
    return {d_anchors, d_contrast, d_temperature};
  }

  std::optional<Tensor> largest;
  if (anchors.scalar_type() == at::kHalf) {
    largest = at::amax(at::abs(d_loss));
    if (mutual) largest = at::maximum(*largest, at::amax(at::abs(*column_d_loss)));
  }
  const bool fixed = p.fixed && !mined.has_value();
  const Tensor terms = of_rows.terms(p.a, largest, p.negatives, fixed);
  std::optional<Tensor> column_terms;
  if (p.self) column_terms = terms;
  if (mutual) column_terms = of_columns->terms(p.c, largest, p.negatives, fixed);
  const std::optional<Tensor> mining = mining_of(mined, seed, p.a, diagonal.value_or(0), kBatchStream);

  // Of rows x with terms of x and of y; along [n]: of every row the product with its gradient.
  const auto gradient_for = [&](const Rows& x, const Rows& y, const std::optional<Tensor>& x_terms,
                                const std::optional<Tensor>& y_terms, const Diagonal& itself,
                                const std::optional<Tensor>& along) {
    const Diagonal own = p.self ? std::nullopt : itself;
    if (!mining.has_value())
      return gradient(p, x, y, x_terms, y_terms, largest, D, along,
                      own.has_value() ? std::optional(itself_of(x, y, *own)) : std::nullopt, at::kFloat);
    Sweep sweep = sweep_of(p, x, y, D, p.self ? Diagonal(0) : itself);
    sweep.terms = x_terms, sweep.column_terms = y_terms;
    if (x_terms.has_value()) sweep.mining = mining;
    if (y_terms.has_value()) sweep.column_mining = mining;
    Tensor d_x = at::empty({x.n(), D}, options);
    project(gradient_of(sweep, largest), x, d_x, along);
    return d_x;
  };
  if (output_mask[0] || output_mask[2]) {
    std::optional<Tensor> along;
    if (output_mask[2]) along = at::empty({N}, options);
    const Tensor d_x = gradient_for(p.a, p.c, terms, column_terms, diagonal, along);
    if (output_mask[0]) d_anchors = d_x;
    // sum_ij G_ij s_ij, which self contrast counts twice
    if (along.has_value()) d_temperature = at::div(at::mul(at::sum(*along), p.self ? -0.5 : -1.0), temperature);
  }
  if (wants_contrast) d_contrast = gradient_for(p.c, p.a, column_terms, terms, reversed(diagonal), std::nullopt);
  return {d_anchors, d_contrast, d_temperature};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CUDA, m) {
  m.impl("contrast_sums", &contrast_sums);
  m.impl("contrast_positives", &contrast_positives);
  m.impl("contrast_gradient", &contrast_gradient);
}

}  // namespace fastpixcon
