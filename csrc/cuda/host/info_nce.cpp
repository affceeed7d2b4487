// info_nce and its backward on CUDA tensors. Nothing is read back: what depends on values stays on the device.
//
// FLOP, self contrast: N^2 D forward (the triangle) and 4 N^2 D backward (all tiles, two products), 2 N^2 D / classes
// for the positives. Memory beyond inputs and outputs: at most 129 partial sums a row, a copy of the rows where they
// come unsorted, raw or not in whole panels, and at most kMostPartialRows rows of float32.
#include "cuda/info_nce.h"

#include <ATen/Context.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/bitwise_xor.h>
#include <ATen/ops/div.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <algorithm>

#include "common/checks.h"
#include "cuda/host/launch.h"
#include "cuda/host/tensors.h"

namespace fastpixcon {
namespace {

using at::Tensor;
constexpr int64_t kMostRows = 1 << 30;       // so that row numbers fit 32 bits
constexpr int64_t kPanel = 128;              // bytes; rows are padded to whole ones
constexpr int64_t kMostGroups = 127;         // of rows; odd
constexpr int64_t kMostSplits = 32;          // of a separate contrast set
constexpr int64_t kMostPartialRows = 32768;  // of gradients in parts
constexpr int kStaticShared = 4096;          // bytes; more than any kernel has beside its dynamic ones

// A set of rows as the kernels want it.
struct Rows {
  Tensor x;                        // [n, D_pad], sorted
  Tensor labels;                   // [n] int32 sorted, those left out last
  std::optional<Tensor> source;    // [n] int64, where each row came from; none: from its place
  std::optional<Tensor> inv_norm;  // [n] float32 of raw rows

  int64_t n() const { return x.size(0); }
  int64_t row_bytes() const { return x.size(1) * x.element_size(); }
};

// How rows are sorted by their labels; in place and as they are where there is nothing.
struct Order {
  std::optional<Tensor> source;  // [n] int64
  std::optional<Tensor> values;  // [n] int64, the labels in order, by which they are ranked
};

Order order(const Tensor& labels, bool is_sorted) {
  const bool wide = labels.scalar_type() == at::kLong;
  if (is_sorted && !wide) return {};
  // In the order of unsigned numbers -1 is last.
  const at::Scalar lowest = wide ? at::Scalar(std::numeric_limits<int64_t>::min())
                                 : at::Scalar(static_cast<int64_t>(std::numeric_limits<int32_t>::min()));
  auto [values, source] = at::sort(at::bitwise_xor(labels, lowest), /*stable=*/true, /*dim=*/0, /*descending=*/false);
  if (!wide) return {source, std::nullopt};
  return {source, values};
}

Rows prepare(const Tensor& x, const Tensor& labels, c10::string_view how, const Order& by,
             const std::optional<Tensor>& classes) {
  const int64_t n = x.size(0), D = x.size(1), element = static_cast<int64_t>(x.element_size());
  const bool raw = how == "raw";
  const bool aligned = reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
  if (!by.source.has_value() && !raw && x.is_contiguous() && D * element % kPanel == 0 && aligned)
    return {x, labels.contiguous(), std::nullopt, std::nullopt};
  const int64_t D_pad = round_up(D, kPanel / element);
  Rows rows{at::empty({n, D_pad}, x.options()), at::empty({n}, labels.options().dtype(at::kInt)), by.source,
            raw ? std::optional(at::empty({n}, x.options().dtype(at::kFloat))) : std::nullopt};
  // Ranked labels come sorted, and theirs are not needed.
  const std::optional<Tensor> own = by.values.has_value() ? std::nullopt : std::optional(labels.contiguous());
  launch(prepare_rows_kernel(dtype_of("anchors", x)), dim3(ceil_div<int64_t>(n, kRowwiseRows)), dim3(kRowwiseThreads),
         0, x, own, by.source, by.values, classes, rows.x, rows.labels, rows.inv_norm, n,
         classes.has_value() ? classes->size(0) : 0, D, D_pad, x.stride(0), x.stride(1));
  return rows;
}

void check_count(const char* name, const Tensor& x) {
  TORCH_CHECK_VALUE(x.size(0) <= kMostRows, name, ": got ", x.size(0), " rows, want at most ", kMostRows);
}

// One loss.
struct Problem {
  bool self, negatives, fixed;
  Tensor temperature;
  Rows a, c;  // anchors, contrast set
  Precision precision;
  DeviceLimits limits;

  Problem(const Tensor& anchors, Tensor anchor_labels, const std::optional<Tensor>& contrast,
          const std::optional<Tensor>& contrast_labels_, const Tensor& temperature_, c10::string_view denominator,
          c10::string_view rows, bool fixed_shift, bool is_sorted)
      : self(!contrast.has_value()),
        negatives(denominator == "negatives"),
        fixed(fixed_shift && rows != "any"),
        temperature(temperature_),
        limits(device_limits(anchors)) {
    check_info_nce(anchors, anchor_labels, contrast, contrast_labels_, temperature, denominator, rows);
    check_count("anchors", anchors);
    check_dtype("temperature", temperature, at::kFloat);
    check_same_device("temperature", temperature, anchors);
    TORCH_CHECK_VALUE(anchors.size(1) <= kGradientMaxWidth, "anchors: got shape ", anchors.sizes(),
                      ", want [rows, 1 to ", kGradientMaxWidth, "]");
    precision = precision_of(anchors);
    if (self) {
      const Order own = order(anchor_labels, is_sorted);
      a = c = prepare(anchors, anchor_labels, rows, own, own.values);
      return;
    }
    Tensor contrast_labels = *contrast_labels_;
    check_count("contrast", *contrast);
    check_dtype("contrast", *contrast, anchors.scalar_type());
    if (anchor_labels.scalar_type() != contrast_labels.scalar_type())
      anchor_labels = anchor_labels.to(at::kLong), contrast_labels = contrast_labels.to(at::kLong);
    const Order by = order(anchor_labels, is_sorted), contrast_by = order(contrast_labels, is_sorted);
    a = prepare(anchors, anchor_labels, rows, by, contrast_by.values);
    c = prepare(*contrast, contrast_labels, rows, contrast_by, contrast_by.values);
  }

  // Of float32: TF32 where PyTorch allows it, else four TF32 products for 22 bits; or plain float32 where a logit must
  // come out the same as a row's and as a column's.
  Precision precision_of(const Tensor& x) const {
    switch (dtype_of("anchors", x)) {
      case Dtype::kBFloat16: return Precision::kBFloat16;
      case Dtype::kHalf: return Precision::kHalf;
      default: break;
    }
    if (!fixed) return Precision::kFloat;
    return at::globalContext().allowTF32CuBLAS() ? Precision::kTf32 : Precision::kTf32x4;
  }

  // Whether a block keeps its rows in shared memory while columns go by.
  bool resident(int rows) const { return sweep_shared_bytes(rows, row_bytes(), true) + kStaticShared <= limits.shared; }
  int shared(int rows) const { return sweep_shared_bytes(rows, row_bytes(), resident(rows)); }
  int row_bytes() const { return static_cast<int>(a.row_bytes()); }
};

struct Sums {
  Tensor sums;                   // [slots, N] partial sums of exponentials
  std::optional<Tensor> maxima;  // [slots, N], what they are relative to; none: to 0
};

Sums partial_sums(const Problem& p) {
  const int64_t N = p.a.n(), M = p.c.n();
  const int rows = is_half(p.precision) && p.resident(128) ? 128 : 64;  // a block
  int64_t size_x = rows, size_y = 0, groups = ceil_div(N, size_x), slots = 0;
  dim3 grid;
  if (p.self) {
    size_x = size_y = round_up<int64_t>(ceil_div(N, kMostGroups), kSweepColumns);
    groups = ceil_div(N, size_x) / 2 * 2 + 1;
    grid = dim3(groups / 2 + 1, groups);
    slots = 2 * (groups / 2 + 1);
  } else {
    size_y = round_up<int64_t>(std::max<int64_t>(1, ceil_div(M, kMostSplits)), kSweepColumns);
    slots = std::max<int64_t>(1, ceil_div(M, size_y));
    grid = dim3(groups, slots);
  }
  const auto options = p.a.x.options().dtype(at::kFloat);
  Sums out{at::empty({slots, N}, options), p.fixed ? std::nullopt : std::optional(at::empty({slots, N}, options))};
  launch(info_nce_sums_kernel(p.precision, p.fixed, rows), grid, dim3(2 * rows), p.shared(rows), p.a.x, p.a.labels,
         p.c.x, p.c.labels, p.temperature, out.sums, out.maxima, N, M, p.row_bytes(), size_x, size_y, groups, p.self,
         p.negatives, p.resident(rows));
  return out;
}

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

GradientLaunch gradient_launch(const Problem& p) {
  switch (p.precision) {
    case Precision::kBFloat16: return info_nce_gradient_bfloat16(p.fixed, p.row_bytes(), p.limits.shared);
    case Precision::kHalf: return info_nce_gradient_float16(p.fixed, p.row_bytes(), p.limits.shared);
    default: return info_nce_gradient_float32(p.precision, p.row_bytes());
  }
}

// In how many parts the columns are taken, each of them by blocks of its own, so that no multiprocessor stands idle for
// long: rounds of blocks times the tiles of a block are the time.
int64_t best_splits(int64_t blocks, int64_t tiles, int64_t rows, int64_t multiprocessors) {
  int64_t best = 1, least = ceil_div(blocks, multiprocessors) * tiles;
  for (int64_t splits = 2; splits <= std::min(tiles, kMostPartialRows / rows); ++splits) {
    const int64_t time = ceil_div(blocks * splits, multiprocessors) * ceil_div(tiles, splits);
    if (10 * time < 9 * least) best = splits, least = time;  // partial results cost something, too
  }
  return best;
}

// Gradient of the rows that x was prepared from, [n, D]; of anchors, of contrast rows, or of both if x is y.
Tensor gradient(const Problem& p, const Rows& x, const Rows& y, const std::optional<Tensor>& x_terms,
                const std::optional<Tensor>& y_terms, const std::optional<Tensor>& largest, int64_t D,
                const std::optional<Tensor>& along) {
  const GradientLaunch how = gradient_launch(p);
  const int64_t n = x.n(), D_pad = x.x.size(1), blocks = ceil_div<int64_t>(n, how.rows);
  const int64_t tiles = std::max<int64_t>(1, ceil_div<int64_t>(y.n(), how.columns));
  const int64_t per_split = ceil_div(tiles, best_splits(blocks, tiles, n, p.limits.multiprocessors));
  const int64_t splits = ceil_div(tiles, per_split);
  const bool partial = splits > 1 || along.has_value() || x.inv_norm.has_value();
  Tensor d_x = at::empty({n, D}, x.x.options());
  Tensor d_rows = partial ? at::empty({splits, n, D_pad}, x.x.options().dtype(at::kFloat)) : d_x;
  launch(how.kernel, dim3(blocks, splits), dim3(how.threads), how.shared, x.x, x.labels, x_terms, y.x, y.labels,
         y_terms, x.source, p.temperature, largest, d_rows, n, y.n(), D, p.row_bytes(), per_split, p.self, p.negatives,
         partial);
  if (partial)
    launch(info_nce_project_kernel(dtype_of("anchors", x.x)), dim3(ceil_div<int64_t>(n, kRowwiseRows)),
           dim3(kRowwiseThreads), 0, d_rows, x.x, x.source, x.inv_norm, d_x, along, n, D, D_pad, splits);
  return d_x;
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
    const Tensor d_x = gradient(p, p.a, p.c, terms, p.self ? std::optional(terms) : std::nullopt, largest, D, along);
    if (output_mask[0]) d_anchors = d_x;
    // sum_ij G_ij s_ij, which self contrast counts twice
    if (along.has_value()) d_temperature = at::div(at::mul(at::sum(*along), p.self ? -0.5 : -1.0), temperature);
  }
  if (wants_contrast)
    d_contrast = p.c.n() == 0 ? at::empty({0, D}, options)
                              : gradient(p, p.c, p.a, std::nullopt, terms, largest, D, std::nullopt);
  return {d_anchors, d_contrast, d_temperature};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CUDA, m) {
  m.impl("info_nce", &info_nce);
  m.impl("info_nce_backward", &info_nce_backward);
}

}  // namespace fastpixcon
