#include "cuda/host/rows.h"

#include <ATen/Context.h>
#include <ATen/ops/bitwise_xor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sort.h>

#include <limits>

#include "cuda/host/launch.h"
#include "cuda/host/tensors.h"
#include "cuda/info_nce.h"
#include "cuda/order_rows.h"

namespace fastpixcon {

using at::Tensor;

namespace {

constexpr int64_t kMostRows = 1 << 30;
constexpr int64_t kPanel = 128;  // bytes; rows are padded to whole ones

bool is_in_pieces(const Tensor& x, int64_t bytes) {
  const bool aligned = reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
  return x.is_contiguous() && x.size(1) * static_cast<int64_t>(x.element_size()) % bytes == 0 && aligned;
}

at::ScalarType stored_as(const Tensor& x, Precision precision) {
  return precision == Precision::kHalfx3 || precision == Precision::kHalf ? at::kHalf : x.scalar_type();
}

// For copies of the rows x, padded to D_pad.
Tensor empty_rows(const Tensor& x, int64_t D_pad, Precision precision) {
  const int64_t width = precision == Precision::kHalfx3 ? 2 * D_pad : D_pad;
  return at::empty({x.size(0), width}, x.options().dtype(stored_as(x, precision)));
}

}  // namespace

Denominator denominator_of(const Rule& rule) {
  return !rule.apart() ? Denominator::kAll : rule.negatives() ? Denominator::kNegatives : Denominator::kDecoupled;
}

Order order(const Tensor& labels, bool is_sorted) {
  const bool wide = labels.scalar_type() == at::kLong;
  if (is_sorted && !wide) return {};
  const int64_t n = labels.size(0);
  if (n > 0 && n <= kMostOrdered) {
    const Tensor places = at::empty({n}, labels.options().dtype(at::kLong));
    std::optional<Tensor> values;
    if (wide) values = at::empty({n}, places.options());
    launch(order_rows_kernel(wide), dim3(ceil_div<int64_t>(n, kOrderThreads / kOrderLanes)), dim3(kOrderThreads), 0,
           labels.contiguous(), places, values, n);
    return {places, values};
  }
  // In the order of unsigned numbers -1 is last.
  const at::Scalar lowest = wide ? at::Scalar(std::numeric_limits<int64_t>::min())
                                 : at::Scalar(static_cast<int64_t>(std::numeric_limits<int32_t>::min()));
  auto [values, source] = at::sort(at::bitwise_xor(labels, lowest), /*stable=*/true, /*dim=*/0, /*descending=*/false);
  if (!wide) return {source, std::nullopt};
  return {source, values};
}

Prepared prepare(const Rows& in, c10::string_view how, const Order& by, const std::optional<Tensor>& classes,
                 Precision precision) {
  const Tensor &x = in.x, &labels = in.labels;
  const int64_t n = x.size(0), D = x.size(1), D_pad = round_up<int64_t>(D, kPanel / element_size(precision));
  const bool raw = how == "raw", as_it_is = stored_as(x, precision) == x.scalar_type();
  if (!by.source.has_value() && how == "unit" && as_it_is && is_in_pieces(x, kPanel))
    return {x, precision, labels.contiguous(), std::nullopt, std::nullopt, std::nullopt, std::nullopt};
  Prepared rows{empty_rows(x, D_pad, precision),
                precision,
                at::empty({n}, labels.options().dtype(at::kInt)),
                by.source,
                raw ? std::optional(at::empty({n}, x.options().dtype(at::kFloat))) : std::nullopt,
                std::nullopt,
                std::nullopt};
  // Ranked labels come sorted, and theirs are not needed.
  const std::optional<Tensor> own = by.values.has_value() ? std::nullopt : std::optional(labels.contiguous());
  launch(prepare_rows_kernel(dtype_of("anchors", x), precision), dim3(ceil_div<int64_t>(n, kRowwiseRows)),
         dim3(kRowwiseThreads), 0, x, own, by.source, by.values, classes, rows.x, rows.labels, rows.inv_norm, n,
         classes.has_value() ? classes->size(0) : 0, D, D_pad, x.stride(0), x.stride(1));
  return rows;
}

std::pair<Rows, Rows> of_one_dtype(Rows anchors, Rows contrast) {
  if (anchors.labels.scalar_type() != contrast.labels.scalar_type())
    for (Rows* rows : {&anchors, &contrast}) rows->labels = rows->labels.to(at::kLong);
  return {std::move(anchors), std::move(contrast)};
}

Tensor in_pieces(const Tensor& x, const Tensor& labels, Precision precision) {
  if (stored_as(x, precision) == x.scalar_type() && is_in_pieces(x, 16)) return x;
  const int64_t n = x.size(0), D = x.size(1), D_pad = round_up<int64_t>(D, kPanel / element_size(precision));
  const Tensor rows = empty_rows(x, D_pad, precision);
  const std::optional<Tensor> none;
  launch(prepare_rows_kernel(dtype_of("bank", x), precision), dim3(ceil_div<int64_t>(n, kRowwiseRows)),
         dim3(kRowwiseThreads), 0, x, labels, none, none, none, rows, none, none, n, 0, D, D_pad, x.stride(0),
         x.stride(1));
  return rows;
}

void check_count(const char* name, int64_t rows) {
  TORCH_CHECK_VALUE(rows <= kMostRows, name, ": got ", rows, " rows, want at most ", kMostRows);
}

Precision tensor_precision(const Tensor& x) {
  switch (dtype_of("anchors", x)) {
    case Dtype::kBFloat16: return Precision::kBFloat16;
    case Dtype::kHalf: return Precision::kHalf;
    default: return at::globalContext().allowTF32CuBLAS() ? Precision::kTf32 : Precision::kTf32x4;
  }
}

Precision bank_precision(const Tensor& x) {
  if (x.scalar_type() != at::kFloat) return tensor_precision(x);
  return at::globalContext().allowTF32CuBLAS() ? Precision::kHalf : Precision::kHalfx3;
}

Precision batch_precision(const Tensor& x, bool fixed) {
  return fixed || x.scalar_type() != at::kFloat ? bank_precision(x) : Precision::kFloat;
}

int64_t best_splits(int64_t blocks, int64_t tiles, int64_t rows, int64_t multiprocessors) {
  int64_t best = 1, least = ceil_div(blocks, multiprocessors) * tiles;
  for (int64_t splits = 2; splits <= std::min(tiles, kMostPartialRows / rows); ++splits) {
    const int64_t time = ceil_div(blocks * splits, multiprocessors) * ceil_div(tiles, splits);
    if (10 * time < 9 * least) best = splits, least = time;  // partial results cost something, too
  }
  return best;
}

}  // namespace fastpixcon
