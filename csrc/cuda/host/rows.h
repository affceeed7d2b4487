// Rows as the kernels of info_nce and of the other contrast sets want them.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>

#include "common/values.h"
#include "cuda/precision.h"
#include "cuda/values.h"

namespace fastpixcon {

constexpr int64_t kMostPartialRows = 32768;  // of gradients in parts

Denominator denominator_of(const Rule& rule);

struct Prepared {
  at::Tensor x;                               // [n, D_pad] sorted; kHalfx3: [n, 2 D_pad], see halves.cuh
  Precision precision;                        // of products, which x is made for
  at::Tensor labels;                          // [n] int32 sorted, those left out last
  std::optional<at::Tensor> source;           // [n] int64, where each row came from; none: from its place
  std::optional<at::Tensor> inv_norm;         // [n] float32 of raw rows
  std::optional<at::Tensor> weights, groups;  // [4, n], [n], see PairRules; none: no rule wants them

  int64_t n() const { return x.size(0); }
  int64_t row_bytes() const { return x.size(1) * x.element_size(); }
  int64_t width() const { return row_bytes() / element_size(precision); }  // D_pad

  // As kernels take them: a RowSet.
  auto row_set(const std::optional<at::Tensor>& mining = {}, const std::optional<at::Tensor>& terms = {}) const {
    return std::tuple(x, labels, source, mining, terms, n(), row_bytes());
  }
};

// How rows are sorted by their labels; in place and as they are where there is nothing.
struct Order {
  std::optional<at::Tensor> source;  // [n] int64
  std::optional<at::Tensor> values;  // [n] int64, the labels in order, by which they are ranked
};

Order order(const at::Tensor& labels, bool is_sorted);

// Rows in that order, "raw" ones as unit rows, as products of that precision take them. Those that come in order, not
// raw, as they are taken, in whole panels and aligned are not copied. classes: by which 64-bit labels are ranked.
Prepared prepare(const Rows& rows, c10::string_view how, const Order& by, const std::optional<at::Tensor>& classes,
                 Precision precision);

// Labels in 64 bits where only one of the sets has them.
std::pair<Rows, Rows> of_one_dtype(Rows anchors, Rows contrast);

// Rows of a bank as products of that precision take them: as they lie; or copied, in whole panels, with zeros where the
// label is -1, if they are to be cut or do not lie one after another in whole pieces of 16 bytes.
at::Tensor in_pieces(const at::Tensor& x, const at::Tensor& labels, Precision precision);

// So many that row numbers fit 32 bits.
void check_count(const char* name, int64_t rows);

// Of products of rows as they lie: of float32 TF32 where PyTorch allows it, else four TF32 products for 22 bits.
Precision tensor_precision(const at::Tensor& x);

// Of products of unit rows with those of a bank: float32 becomes float16 where PyTorch allows TF32, which has as many
// bits, else two halves of it.
Precision bank_precision(const at::Tensor& x);

// The same of rows of a batch with a fixed shift, which only unit rows have; without one float32 is plain, for a logit
// must come out the same as a row's and as a column's.
Precision batch_precision(const at::Tensor& x, bool fixed);

// In how many parts the columns are taken, each of them by blocks of its own, so that no multiprocessor stands idle for
// long: rounds of blocks times the tiles of a block are the time.
int64_t best_splits(int64_t blocks, int64_t tiles, int64_t rows, int64_t multiprocessors);

}  // namespace fastpixcon
