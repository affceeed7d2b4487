#include "cuda/host/gradient_sm90.h"

#include <ATen/ops/empty.h>

#include "cuda/host/tensors.h"

namespace fastpixcon {

GradientSm90Launch gradient_sm90_launch(const Problem& p, int64_t D) {
  if (!p.limits.sm90 || !p.fixed || p.ruling.exists || D * 2 != p.row_bytes()) return {};
  const GradientSm90Launch found = info_nce_gradient_sm90(p.precision, p.row_bytes());
  return found.shared <= p.limits.shared ? found : GradientSm90Launch{};
}

PanelRows::PanelRows(const Prepared& rows, const std::optional<at::Tensor>& terms, const GradientSm90Launch& of)
    : labels(rows.labels),
      terms(terms),
      n(rows.n()),
      n_pad(std::max(round_up<int64_t>(n, of.rows), round_up<int64_t>(n, of.columns))) {
  panels = at::empty({n_pad * rows.width()}, rows.x.options());
  facts = at::empty({ceil_div<int64_t>(n, of.columns), kFactsOfColumn, of.columns}, rows.x.options().dtype(at::kFloat));
  const int64_t pieces = n_pad * (rows.row_bytes() / 16);
  launch(info_nce_panels_kernel(), dim3(ceil_div<int64_t>(pieces, kPanelsThreads)), dim3(kPanelsThreads), 0, rows.x,
         labels, terms, panels, facts, n, n_pad, rows.row_bytes(), of.columns);
}

}  // namespace fastpixcon
