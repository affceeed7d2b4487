#include "cuda/host/sm90.h"

#include <ATen/ops/empty.h>

#include "cuda/host/tensors.h"

namespace fastpixcon {

namespace {

constexpr int64_t kMostGroups = 127;  // of rows; odd
constexpr int64_t kMostParts = 32;    // of the columns of a group
constexpr int64_t kStart = 8;         // tiles, that a block waits for its first ones and after its last

// Rows that are padded are none of these widths.
bool takes(const Problem& p) { return p.limits.sm90 && p.fixed && !p.ruling.exists && p.D * 2 == p.row_bytes(); }

// How many a part has of `all`, each of so many tiles: that rounds of blocks, of every group and part, take the least.
int64_t size_of_part(int64_t groups, int64_t all, int64_t tiles, int64_t multiprocessors) {
  int64_t best = all, least = 0;
  for (int64_t parts = 1; parts <= std::min(all, kMostParts); ++parts) {
    const int64_t size = ceil_div(all, parts), rounds = ceil_div(groups * ceil_div(all, size), multiprocessors);
    const int64_t time = rounds * (size * tiles + kStart);
    if (parts == 1 || time < least) best = size, least = time;
  }
  return best;
}

}  // namespace

GradientSm90Launch gradient_sm90_launch(const Problem& p) {
  if (!takes(p)) return {};
  const GradientSm90Launch found = info_nce_gradient_sm90(p.precision, p.row_bytes());
  return found.shared <= p.limits.shared ? found : GradientSm90Launch{};
}

SumsSm90Launch sums_sm90_launch(const Problem& p) {
  if (!takes(p)) return {};
  const SumsSm90Launch found = info_nce_sums_sm90(p.precision, p.row_bytes());
  return found.shared <= p.limits.shared ? found : SumsSm90Launch{};
}

PanelRows::PanelRows(const Prepared& prepared, const std::optional<at::Tensor>& terms, int64_t rows, int64_t columns)
    : labels(prepared.labels),
      terms(terms),
      n(prepared.n()),
      n_pad(std::max(round_up<int64_t>(n, rows), round_up<int64_t>(n, columns))) {
  const auto options = prepared.x.options();
  panels = at::empty({n_pad * prepared.width()}, options);
  facts = at::empty({ceil_div<int64_t>(n, columns), kFactsOfColumn, columns}, options.dtype(at::kFloat));
  const int64_t pieces = n_pad * (prepared.row_bytes() / 16);
  launch(info_nce_panels_kernel(), dim3(ceil_div<int64_t>(pieces, kPanelsThreads)), dim3(kPanelsThreads), 0, prepared.x,
         labels, terms, panels, facts, n, n_pad, prepared.row_bytes(), columns);
}

Sums partial_sums_sm90(const Problem& p, const SumsSm90Launch& how) {
  const int64_t N = p.a.n(), M = p.c.n();
  int64_t size_x = how.rows, size_y = 0, groups = ceil_div(N, size_x), per_part = 1, parts = 1, column_slots = 0;
  if (p.self) {
    size_x = size_y = round_up<int64_t>(ceil_div(N, kMostGroups), how.rows);
    groups = ceil_div(N, size_x) / 2 * 2 + 1;
    const int64_t pairs = groups / 2 + 1;  // of a group
    per_part = size_of_part(groups, pairs, size_y / how.columns, p.limits.multiprocessors);
    parts = ceil_div(pairs, per_part);
    column_slots = pairs * how.warpgroups;
  } else {
    const int64_t tiles = std::max<int64_t>(1, ceil_div<int64_t>(M, how.columns));
    const int64_t size = size_of_part(groups, tiles, 1, p.limits.multiprocessors);
    size_y = size * how.columns;
    parts = ceil_div(tiles, size);
  }
  Sums out{at::empty({parts + column_slots, N}, p.a.x.options().dtype(at::kFloat)), std::nullopt};
  const PanelRows x(p.a, std::nullopt, how.rows, how.columns);
  const PanelRows y = p.self ? x : PanelRows(p.c, std::nullopt, how.rows, how.columns);
  launch(how.kernel, dim3(parts, groups), dim3(how.threads), how.shared, x.set(), y.set(), p.temperature, out.sums,
         size_x, size_y, groups, per_part, p.self, p.apart());
  return out;
}

}  // namespace fastpixcon
