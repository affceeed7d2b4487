// Sums over a contrast set of several, which may be a bank or mined: launches of cuda/contrast.h.
#pragma once

#include <tuple>

#include "cuda/contrast.h"
#include "cuda/host/launch.h"
#include "cuda/host/rows.h"
#include "cuda/host/rules.h"

namespace fastpixcon {

// Contrast rows, sorted by label or in a bank.
struct Columns {
  at::Tensor x;                               // [M, D_pad] or, of a bank, see in_pieces
  at::Tensor labels;                          // [M] int32, -1 where a row does not count
  std::optional<at::Tensor> source;           // [M] int64, where each row came from; none: from its place
  int64_t ring = 0;                           // of a bank: rows a class
  std::optional<at::Tensor> weights, groups;  // as of Prepared

  Columns(const Prepared& rows)
      : x(rows.x), labels(rows.labels), source(rows.source), weights(rows.weights), groups(rows.groups) {}
  Columns(at::Tensor x, at::Tensor labels, int64_t ring) : x(std::move(x)), labels(std::move(labels)), ring(ring) {}
  int64_t row_bytes() const { return x.size(1) * x.element_size(); }
  // As kernels take them: a RowSet.
  auto row_set(const std::optional<at::Tensor>& mining = {}, const std::optional<at::Tensor>& terms = {}) const {
    return std::tuple(x, labels, source, mining, terms, x.size(0), row_bytes());
  }
  // About so many a block of anchors visits.
  int64_t most_visited(bool only_positives) const {
    return !only_positives ? x.size(0) : ring > 0 ? ring : x.size(0) / 16;
  }
};

// A bank [K, S, D], where it lies but for float32, and anchors for it.
Columns columns_of_bank(const BankRows& bank, const Ruling& ruling);
// like: the same anchors, prepared for other contrast rows.
Prepared anchors_of_bank(const Rows& anchors, int64_t classes, const Ruling& ruling, bool is_sorted = false,
                         const std::optional<Prepared>& like = {});

// Anchors and a contrast set; mining, terms and itself as the kernel has them.
struct Sweep {
  Prepared anchors;
  Columns columns;
  int64_t D;
  at::Tensor temperature;
  Denominator denominator;
  std::optional<at::Tensor> mining = {}, itself = {};
  std::optional<at::Tensor> column_mining = {}, terms = {}, column_terms = {};
  Ruling ruling = {};
};

// log sum [N], mean [N, D] or [0].
std::tuple<at::Tensor, at::Tensor> sums_of(const Sweep& sweep, bool fixed, bool wants_mean);

// loss, weight, mass [N], pull [N, D] or [0]; means: loss and weight over the mass.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> positives_of(const Sweep& sweep, const at::Tensor& log_sum,
                                                                        bool wants_pull, bool means = false);

// Partial gradients of the anchors, [splits, N, D_pad] in sorted order, of pairs that mining keeps, or under a rule.
// fixed: terms are.
at::Tensor gradient_of(const Sweep& sweep, const std::optional<at::Tensor>& largest, bool fixed = false);

// From sums [slots, N], and maxima, their logarithm [N].
at::Tensor log_of(const at::Tensor& sums, const std::optional<at::Tensor>& maxima, const Prepared& anchors,
                  const at::Tensor& temperature);

// mining [5, N] of sorted anchors; none where all pairs are kept.
std::optional<at::Tensor> mining_of(const Pairs& pairs, const Prepared& anchors, uint32_t stream);

// itself [N]: for every row of x the place in y of the row whose number is `first` beyond its own, or -1.
at::Tensor itself_of(const Prepared& x, const Prepared& y, int64_t first);

}  // namespace fastpixcon
