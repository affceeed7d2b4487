#include "cuda/host/problem.h"

#include <ATen/ops/abs.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/empty.h>

#include "common/checks.h"
#include "cuda/host/sm90.h"
#include "cuda/host/tensors.h"
#include "cuda/info_nce.h"

namespace fastpixcon {

using at::Tensor;

namespace {

constexpr int64_t kMostGroups = 127;  // of rows; odd
constexpr int64_t kMostSplits = 32;   // of a separate contrast set
constexpr int kStaticShared = 4096;   // bytes; more than any kernel has beside its dynamic ones

GradientLaunch gradient_launch(const Problem& p) {
  switch (p.precision) {
    case Precision::kBFloat16: return info_nce_gradient_bfloat16(p.fixed, p.row_bytes(), p.limits.shared);
    case Precision::kHalf: return info_nce_gradient_float16(p.fixed, p.row_bytes(), p.limits.shared);
    case Precision::kHalfx3: return info_nce_gradient_halves(p.row_bytes());
    default: return info_nce_gradient_float32(p.row_bytes());
  }
}

}  // namespace

Problem::Problem(const Rows& anchors, const std::optional<Rows>& contrast, const Rule& rule, c10::string_view rows)
    : self(!contrast.has_value()),
      fixed(rule.fixed_shift && rows != "any"),
      D(anchors.x.size(1)),
      denominator(denominator_of(rule)),
      temperature(rule.temperature),
      ruling(rule, weighed(anchors) || (contrast.has_value() && weighed(*contrast))),
      limits(device_limits(anchors.x)) {
  check_count("anchors", anchors.count());
  check_dtype("temperature", temperature, at::kFloat);
  check_same_device("temperature", temperature, anchors.x);
  TORCH_CHECK_VALUE(anchors.x.size(1) <= kGradientMaxWidth, "anchors: got shape ", anchors.x.sizes(),
                    ", want [rows, 1 to ", kGradientMaxWidth, "]");
  precision = batch_precision(anchors.x, fixed);
  const Rows labelled = labelled_for(ruling, anchors);
  if (self) {
    const Order own = order(labelled.labels, rule.is_sorted);
    a = prepare(labelled, rows, own, own.values, precision);
    add_rules(ruling, labelled, a);
    c = a;
    return;
  }
  check_count("contrast", contrast->count());
  check_dtype("contrast", contrast->x, anchors.x.scalar_type());
  const auto [own, other] = of_one_dtype(labelled, labelled_for(ruling, *contrast));
  const Order by = order(own.labels, rule.is_sorted), contrast_by = order(other.labels, rule.is_sorted);
  a = prepare(own, rows, by, contrast_by.values, precision);
  c = prepare(other, rows, contrast_by, contrast_by.values, precision);
  add_rules(ruling, own, a);
  add_rules(ruling, other, c);
}

bool Problem::resident(int rows) const {
  return sweep_shared_bytes(rows, row_bytes(), true) + kStaticShared <= limits.shared;
}
int Problem::shared(int rows) const { return sweep_shared_bytes(rows, row_bytes(), resident(rows)); }

Sweep sweep_of(const Problem& p, const Prepared& x, const Prepared& y, int64_t D) {
  Sweep sweep{x, y, D, p.temperature, p.denominator};
  sweep.ruling = p.ruling;
  return sweep;
}

Sums partial_sums(const Problem& p) {
  const SumsSm90Launch sm90 = sums_sm90_launch(p);
  if (sm90.kernel != nullptr) return partial_sums_sm90(p, sm90);
  const int64_t N = p.a.n(), M = p.c.n();
  const bool large = is_half(p.precision) && p.resident(128) && !p.ruling.exists;
  const int rows = large ? 128 : 64;  // a block
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
  const InfoNCESumsKernel kernel =
      p.ruling.exists ? info_nce_sums_ruled(p.precision, p.fixed) : info_nce_sums_kernel(p.precision, p.fixed, rows);
  launch(kernel, grid, dim3(sweep_threads(p.precision, rows)), p.shared(rows), p.a.x, p.a.labels, p.c.x, p.c.labels,
         p.temperature, out.sums, out.maxima, N, M, p.row_bytes(), size_x, size_y, groups, p.self, p.apart(),
         p.resident(rows), rules_of(p.ruling, p.a, p.c));
  return out;
}

void project(const Tensor& d_rows, const Prepared& x, const Tensor& d_x, const std::optional<Tensor>& along) {
  const int64_t n = x.n();
  launch(info_nce_project_kernel(x.precision, dtype_of("d_x", d_x)), dim3(ceil_div<int64_t>(n, kRowwiseRows)),
         dim3(kRowwiseThreads), 0, d_rows, x.x, x.source, x.inv_norm, d_x, along, n, d_x.size(1), d_rows.size(2),
         d_rows.size(0));
}

Tensor largest_of(const Tensor& d_loss) {
  if (d_loss.stride(0) == 0) return d_loss.select(0, 0);
  return at::amax(at::abs(d_loss));
}

Tensor terms_of(const Prepared& rows, const Statistics& of, const std::optional<Tensor>& largest, bool negatives,
                bool fixed) {
  const int64_t n = rows.n();
  const Tensor terms = at::empty({3, n}, of.log_sum.options().memory_format(at::MemoryFormat::Contiguous));
  launch(info_nce_terms_kernel(), dim3(ceil_div<int64_t>(n, kRowwiseThreads)), dim3(kRowwiseThreads), 0, of.d_loss,
         of.log_sum.contiguous(), of.weight.contiguous(), of.mass.contiguous(), rows.source, largest, terms, n,
         of.d_loss.stride(0), negatives, fixed);
  return terms;
}

Tensor gradient(const Problem& p, const Prepared& x, const Prepared& y, const Sides& sides, int64_t D,
                const std::optional<Tensor>& along, const std::optional<Tensor>& itself, at::ScalarType dtype) {
  if (p.ruling.exists) {
    Sweep sweep = sweep_of(p, x, y, D);
    sweep.itself = p.self ? itself_of(x, y, 0) : itself;
    sweep.terms = sides.x_terms, sweep.column_terms = sides.y_terms;
    Tensor d_x = at::empty({x.n(), D}, x.x.options().dtype(dtype));
    project(gradient_of(sweep, sides.largest, p.fixed), x, d_x, along);
    return d_x;
  }
  const GradientLaunch how = gradient_launch(p);
  const GradientSm90Launch sm90 = gradient_sm90_launch(p);
  const bool by_warpgroups = sm90.kernel != nullptr;
  const int64_t rows = by_warpgroups ? sm90.rows : how.rows, columns = by_warpgroups ? sm90.columns : how.columns;
  const int64_t n = x.n(), D_pad = x.width(), blocks = ceil_div<int64_t>(n, rows);
  const int64_t tiles = std::max<int64_t>(1, ceil_div<int64_t>(y.n(), columns));
  const int64_t per_split = ceil_div(tiles, best_splits(blocks, tiles, n, p.limits.multiprocessors));
  const int64_t splits = ceil_div(tiles, per_split);
  const at::ScalarType written = p.precision == Precision::kHalfx3 ? at::kFloat : x.x.scalar_type();
  const bool partial = splits > 1 || along.has_value() || x.inv_norm.has_value() || dtype != written;
  Tensor d_x = at::empty({n, D}, x.x.options().dtype(dtype));
  Tensor d_rows = partial ? at::empty({splits, n, D_pad}, x.x.options().dtype(at::kFloat)) : d_x;
  if (by_warpgroups) {
    const PanelRows x_panels(x, sides.x_terms, rows, columns);
    const bool same = x.x.is_same(y.x) && sides.same();
    const PanelRows y_panels = same ? x_panels : PanelRows(y, sides.y_terms, rows, columns);
    launch(sm90.kernel, dim3(blocks, splits), dim3(sm90.threads), sm90.shared, x_panels.set(), y_panels.set(), x.source,
           p.temperature, sides.largest, d_rows, per_split, p.self, static_cast<int>(p.denominator), partial, itself);
  } else {
    launch(how.kernel, dim3(blocks, splits), dim3(how.threads), how.shared, x.x, x.labels, sides.x_terms, y.x, y.labels,
           sides.y_terms, x.source, p.temperature, sides.largest, d_rows, n, y.n(), D, p.row_bytes(), per_split, p.self,
           static_cast<int>(p.denominator), partial, itself);
  }
  if (partial) project(d_rows, x, d_x, along);
  return d_x;
}

}  // namespace fastpixcon
