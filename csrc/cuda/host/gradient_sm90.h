// The gradient of info_nce by kernels that sm_90a alone has.
#pragma once

#include "cuda/host/problem.h"
#include "cuda/info_nce_sm90.h"

namespace fastpixcon {

// The rule by which they are taken, of 64, 128 or 256 16-bit numbers a row and with a fixed shift, where they are asked
// for (DeviceLimits) and were built; without rules of pairs, which are a sweep. None, with a kernel of null: the
// kernels of every architecture.
GradientSm90Launch gradient_sm90_launch(const Problem& p, int64_t D);

// Rows as they want them.
struct PanelRows {
  at::Tensor panels, facts, labels;
  std::optional<at::Tensor> terms;
  int64_t n, n_pad;

  PanelRows(const Prepared& rows, const std::optional<at::Tensor>& terms, const GradientSm90Launch& of);

  // A PanelSet.
  auto set() const { return std::tuple(panels, facts, labels, terms, n, n_pad); }
};

}  // namespace fastpixcon
