// info_nce and its backward on CUDA tensors. Nothing is read back: what depends on values stays on the device.
//
// FLOP, self contrast: N^2 D forward (the triangle) and 4 N^2 D backward (all tiles, two products), 2 N^2 D / classes
// for the positives. Memory beyond inputs and outputs: at most 129 partial sums a row, a copy of the rows where they
// come unsorted, raw or not in whole panels, and at most kMostPartialRows rows of float32.
#include "cuda/info_nce.h"

#include <ATen/ops/abs.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/div.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "common/checks.h"
#include "cuda/host/problem.h"
#include "cuda/host/tensors.h"

namespace fastpixcon {
namespace {

using at::Tensor;

std::tuple<Tensor, Tensor, Tensor, Tensor> info_nce(const Tensor& anchors, const Tensor& anchor_labels,
                                                    const std::optional<Tensor>& contrast,
                                                    const std::optional<Tensor>& contrast_labels,
                                                    const Tensor& temperature, c10::string_view denominator,
                                                    c10::string_view rows, bool fixed_shift, bool is_sorted) {
  const c10::DeviceGuard guard(anchors.device());
  const Problem p(anchors, anchor_labels, contrast, contrast_labels, temperature, denominator, rows, fixed_shift,
                  is_sorted);
  const int64_t N = anchors.size(0);
  const auto options = anchors.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous);
  Tensor loss = at::empty({N}, options), log_sum = at::empty({N}, options), weight = at::empty({N}, options);
  Tensor num_positives = at::empty({N}, options.dtype(at::kInt));
  if (N == 0) return {loss, log_sum, weight, num_positives};
  const Sums sums = partial_sums(p);
  launch(info_nce_positives_kernel(p.precision, p.fixed), dim3(ceil_div<int64_t>(N, kPositivesRows)),
         dim3(2 * kPositivesRows), p.shared(kPositivesRows), p.a.x, p.a.labels, p.c.x, p.c.labels, p.a.source,
         p.temperature, sums.sums, sums.maxima, loss, log_sum, weight, num_positives, N, p.c.n(), sums.sums.size(0),
         p.row_bytes(), p.self, p.negatives, p.resident(kPositivesRows));
  return {loss, log_sum, weight, num_positives};
}

std::tuple<Tensor, Tensor, Tensor> info_nce_backward(
    const Tensor& d_loss, const Tensor& anchors, const Tensor& anchor_labels, const std::optional<Tensor>& contrast,
    const std::optional<Tensor>& contrast_labels, const Tensor& temperature, const Tensor& log_sum,
    const Tensor& weight, const Tensor& num_positives, c10::string_view denominator, c10::string_view rows,
    bool fixed_shift, bool is_sorted, std::array<bool, 3> output_mask) {
  const c10::DeviceGuard guard(anchors.device());
  const Problem p(anchors, anchor_labels, contrast, contrast_labels, temperature, denominator, rows, fixed_shift,
                  is_sorted);
  const int64_t N = anchors.size(0), D = anchors.size(1);
  for (const Tensor& x : {d_loss, log_sum, weight}) {
    check_sizes("d_loss, log_sum, weight", x, {N});
    check_dtype("d_loss, log_sum, weight", x, at::kFloat);
    check_same_device("d_loss, log_sum, weight", x, anchors);
  }
  check_sizes("num_positives", num_positives, {N});
  const bool wants_contrast = output_mask[1] && !p.self;
  const auto options = anchors.options().memory_format(at::MemoryFormat::Contiguous);
  Tensor d_anchors = at::empty({0}, options), d_contrast = at::empty({0}, options);
  Tensor d_temperature = at::empty_like(temperature);
  if (N == 0) {
    d_temperature.zero_();
    if (wants_contrast) d_contrast = at::zeros(contrast->sizes(), options);
    if (output_mask[0]) d_anchors = at::empty({N, D}, options);
    return {d_anchors, d_contrast, d_temperature};
  }
  std::optional<Tensor> largest;
  if (anchors.scalar_type() == at::kHalf) largest = at::amax(at::abs(d_loss));
  const Tensor terms = at::empty({3, N}, options.dtype(at::kFloat));
  launch(info_nce_terms_kernel(), dim3(ceil_div<int64_t>(N, kRowwiseThreads)), dim3(kRowwiseThreads), 0, d_loss,
         log_sum.contiguous(), weight.contiguous(), num_positives.contiguous(), p.a.source, largest, terms, N,
         d_loss.stride(0), p.negatives, p.fixed);
  if (output_mask[0] || output_mask[2]) {
    std::optional<Tensor> along;
    if (output_mask[2]) along = at::empty({N}, options.dtype(at::kFloat));
    const Tensor d_x = gradient(p, p.a, p.c, terms, p.self ? std::optional(terms) : std::nullopt, largest, D, along,
                                std::nullopt, anchors.scalar_type());
    if (output_mask[0]) d_anchors = d_x;
    // sum_ij G_ij s_ij, which self contrast counts twice
    if (along.has_value()) d_temperature = at::div(at::mul(at::sum(*along), p.self ? -0.5 : -1.0), temperature);
  }
  if (wants_contrast)
    d_contrast = p.c.n() == 0 ? at::empty({0, D}, options)
                              : gradient(p, p.c, p.a, std::nullopt, terms, largest, D, std::nullopt, std::nullopt,
                                         anchors.scalar_type());
  return {d_anchors, d_contrast, d_temperature};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CUDA, m) {
  m.impl("info_nce", &info_nce);
  m.impl("info_nce_backward", &info_nce_backward);
}

}  // namespace fastpixcon
