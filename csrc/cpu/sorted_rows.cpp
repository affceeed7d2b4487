#include "cpu/sorted_rows.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/float_rows.h"
#include "cpu/inverse_norm.h"
#include "cpu/scratch.h"

namespace fastpixcon::cpu {
namespace {

constexpr int64_t kLeftOut = -1;

template <class label_t>
void sort_labels(const label_t* labels, int64_t N, SortedRows& set) {
  set.source.reserve(N);
  for (int64_t i = 0; i < N; ++i)
    if (labels[i] != kLeftOut) set.source.push_back(i);
  const auto less = [labels](int64_t a, int64_t b) { return labels[a] < labels[b]; };
  if (!std::is_sorted(set.source.begin(), set.source.end(), less))
    std::stable_sort(set.source.begin(), set.source.end(), less);
  set.n = static_cast<int64_t>(set.source.size());
  set.label.resize(set.n);
  for (int64_t i = 0; i < set.n; ++i) set.label[i] = labels[set.source[i]];
}

// The row times inverse_norm.
void make_unit(float* row, int64_t D, double inverse_norm, bool bf16) {
  if (inverse_norm == 0) {
    std::fill(row, row + D, 0.0f);
    return;
  }
  for (int64_t k = 0; k < D; ++k) row[k] = static_cast<float>(static_cast<double>(row[k]) * inverse_norm);
  if (bf16) round_to_bf16(row, D);
}

template <class scalar_t>
void gather_rows(const scalar_t* x, int64_t x_stride, SortedRows& set, int64_t first, int64_t count, float* rows) {
  const int64_t D = set.operand.depth, stride = set.operand.stride;
  for (int64_t i = first; i < first + count; ++i) {
    float* row = rows + (i - first) * stride;  // [D], then zeros
    std::fill(i < set.n ? row + D : row, row + stride, 0.0f);
    if (i >= set.n) continue;
    to_floats(x + set.source[i] * x_stride, D, row);
    if (set.inv_norm.empty()) {
      int32_t largest = 0;
      for (int64_t k = 0; k < D; ++k) largest = std::max(largest, static_cast<int32_t>(bits_of(row[k]) & 0x7fffffff));
      // Not finite: an infinite logit may add nothing to a sum.
      if (largest >= 0x7f800000) std::fill(row, row + D, std::numeric_limits<float>::quiet_NaN());
      continue;
    }
    const double inverse = inverse_norm(std::sqrt(dot_in_double(row, row, D)));
    set.inv_norm[i] = inverse;
    make_unit(row, D, inverse, set.bf16);
  }
}

template <class scalar_t, class out_t>
void unsort(const SortedRows& set, const scalar_t* x, int64_t x_stride, int64_t first, int64_t last,
            const float* d_rows, double scale, out_t* out) {
  const int64_t D = set.operand.depth;
  std::vector<float> row(D, 0.0f), d_row(D);
  for (int64_t i = first; i < last; ++i) {
    const float* d = d_rows + (i - first) * set.operand.stride;
    out_t* to = out + set.source[i] * D;
    double along = 0, factor = scale;
    if (!set.inv_norm.empty()) {
      to_floats(x + set.source[i] * x_stride, D, row.data());
      make_unit(row.data(), D, set.inv_norm[i], set.bf16);
      along = dot_in_double(d, row.data(), D);
      factor *= set.inv_norm[i];
    }
    for (int64_t k = 0; k < D; ++k) d_row[k] = static_cast<float>(factor * (d[k] - along * row[k]));
    from_floats(d_row.data(), D, to);
  }
}

}  // namespace

at::Tensor with_dense_rows(const at::Tensor& x) { return x.stride(1) == 1 ? x : x.contiguous(); }

SortedRows in_order(const Rows& in, bool normalize, const TileKernels& kernels) {
  SortedRows set;
  const int64_t N = in.x.size(0), D = in.x.size(1), lanes = kernels.lanes;
  const at::Tensor y = in.labels.contiguous();
  if (y.scalar_type() == at::kInt) {
    sort_labels(y.const_data_ptr<int32_t>(), N, set);
  } else {
    sort_labels(y.const_data_ptr<int64_t>(), N, set);
  }
  if (normalize) set.inv_norm.resize(set.n);
  set.bf16 = kernels.bf16;
  set.operand = {nullptr, odd_lines(round_up(D, lanes)), D, round_up(set.n, lanes)};
  return set;
}

SortedRows sort_rows(const Rows& in, bool normalize, const TileKernels& kernels) {
  SortedRows set = in_order(in, normalize, kernels);
  const int64_t count = set.operand.count, stride = set.operand.stride;
  set.rows = scratch({count, stride});
  float* rows = set.rows.mutable_data_ptr<float>();
  const at::Tensor x = with_dense_rows(in.x);
  at::parallel_for(0, count, 64,
                   [&](int64_t first, int64_t last) { set.gather(x, first, last - first, rows + first * stride); });
  set.operand.rows = rows;
  return set;
}

void SortedRows::gather(const at::Tensor& x, int64_t first, int64_t count, float* to) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "gather", [&] {
    gather_rows(x.const_data_ptr<scalar_t>(), x.stride(0), *this, first, count, to);
  });
}

void SortedRows::pack(Part part, const TileKernels& kernels) {
  const int64_t size = kernels.pack_size(part, operand.count, operand.depth, operand.stride);
  if (size == 0) return;
  at::Tensor& to = packed[static_cast<int>(part)];
  to = scratch({size});
  float* out = to.mutable_data_ptr<float>();
  at::parallel_for(0, operand.count / kernels.lanes, 4,
                   [&](int64_t first, int64_t last) { kernels.pack(part, operand, out, first, last); });
  operand.packed[static_cast<int>(part)] = out;
}

SomeRows::SomeRows(SortedRows& set, const at::Tensor& x, int64_t most, bool values, const TileKernels& kernels)
    : set_(set), x_(x), kernels_(kernels), operand_(set.operand) {
  const int64_t count = round_up(most, kernels.lanes);
  rows_ = scratch({count, operand_.stride});
  operand_.rows = rows_.const_data_ptr<float>();
  for (const Part part : {Part::kLeft, Part::kValues}) {
    if (part == Part::kValues && !values) continue;
    const int64_t size = kernels.pack_size(part, count, operand_.depth, operand_.stride);
    if (size > 0) packed_[static_cast<int>(part)] = scratch({size});
  }
}

const Operand& SomeRows::take(int64_t first, int64_t m) {
  operand_.count = round_up(m, kernels_.lanes);
  set_.gather(x_, first, operand_.count, rows_.mutable_data_ptr<float>());
  for (const Part part : {Part::kLeft, Part::kValues}) {
    const at::Tensor& to = packed_[static_cast<int>(part)];
    if (!to.defined()) continue;
    kernels_.pack(part, operand_, to.mutable_data_ptr<float>(), 0, operand_.count / kernels_.lanes);
    operand_.packed[static_cast<int>(part)] = to.const_data_ptr<float>();
  }
  return operand_;
}

void unsort_rows(const SortedRows& set, const at::Tensor& x, int64_t first, int64_t last, const float* d_rows,
                 double scale, const at::Tensor& d_x) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "unsort_rows", [&] {
    const scalar_t* from = x.const_data_ptr<scalar_t>();
    if (d_x.scalar_type() == x.scalar_type()) {
      unsort(set, from, x.stride(0), first, last, d_rows, scale, d_x.mutable_data_ptr<scalar_t>());
    } else {
      unsort(set, from, x.stride(0), first, last, d_rows, scale, d_x.mutable_data_ptr<float>());
    }
  });
}

at::Tensor unsort_gradient(const SortedRows& set, const at::Tensor& x, const float* d_rows, double scale,
                           at::ScalarType dtype) {
  at::Tensor d_x = at::zeros(x.sizes(), x.options().dtype(dtype).memory_format(at::MemoryFormat::Contiguous));
  const at::Tensor dense = with_dense_rows(x);
  at::parallel_for(0, set.n, 64, [&](int64_t first, int64_t last) {
    unsort_rows(set, dense, first, last, d_rows + first * set.operand.stride, scale, d_x);
  });
  return d_x;
}

std::vector<int32_t> places(const SortedRows& set, const SortedRows& among, int64_t M, int64_t diagonal) {
  std::vector<int32_t> place(M, -1), out(set.n, -1);
  diagonal = std::clamp(diagonal, -(int64_t{1} << 62), M);  // beyond, no sum overflows and nobody is among them
  for (int64_t j = 0; j < among.n; ++j) place[among.source[j]] = static_cast<int32_t>(j);
  for (int64_t i = 0; i < set.n; ++i) {
    const int64_t j = set.source[i] + diagonal;
    if (j >= 0 && j < M) out[i] = place[j];
  }
  return out;
}

Classes match_classes(const SortedRows& anchors, const SortedRows& contrast) {
  Classes classes;
  classes.of_anchor.resize(anchors.n);
  classes.of_contrast.resize(contrast.n);
  int64_t a = 0, c = 0;
  while (a < anchors.n || c < contrast.n) {
    const int64_t label = c >= contrast.n  ? anchors.label[a]
                          : a >= anchors.n ? contrast.label[c]
                                           : std::min(anchors.label[a], contrast.label[c]);
    const int32_t number = static_cast<int32_t>(classes.range.size());
    ClassRange range{a, a, c, c};
    for (; a < anchors.n && anchors.label[a] == label; ++a) classes.of_anchor[a] = number;
    for (; c < contrast.n && contrast.label[c] == label; ++c) classes.of_contrast[c] = number;
    range.anchor_last = a;
    range.contrast_last = c;
    classes.range.push_back(range);
  }
  return classes;
}

}  // namespace fastpixcon::cpu
