// Sums and gradient of info_nce by kernels that sm_90a alone has.
#pragma once

#include "cuda/host/problem.h"
#include "cuda/info_nce_sm90.h"

namespace fastpixcon {

// The rule by which they are taken, for 64, 128 or 256 16-bit numbers a row and a fixed shift, where they are asked for
// (DeviceLimits), fit and were built; without rules of pairs, which the kernels of every architecture have. A kernel of
// null: those.
GradientSm90Launch gradient_sm90_launch(const Problem& p);
SumsSm90Launch sums_sm90_launch(const Problem& p);

Sums partial_sums_sm90(const Problem& p, const SumsSm90Launch& how);

// Rows as they want them, in whole tiles as rows and as columns.
struct PanelRows {
  at::Tensor panels, facts, labels;
  std::optional<at::Tensor> terms;
  int64_t n, n_pad;

  PanelRows(const Prepared& prepared, const std::optional<at::Tensor>& terms, int64_t rows, int64_t columns);

  // A PanelSet.
  auto set() const { return std::tuple(panels, facts, labels, terms, n, n_pad); }
};

}  // namespace fastpixcon
