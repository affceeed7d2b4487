#include "cpu/steps.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "cpu/panel.h"
#include "cpu/scratch.h"

namespace fastpixcon::cpu {
namespace {

using at::Tensor;
constexpr double kInf = std::numeric_limits<double>::infinity();

// Running sums of the sorted rows of one side.
struct Running {
  std::vector<double> sum;
  std::vector<float> max;

  explicit Running(int64_t n) : sum(n, 0.0), max(n, -std::numeric_limits<float>::infinity()) {}
  RunningSum at(int64_t i) { return {max.data() + i, sum.data() + i}; }

  double log(const Scale& scale, int64_t i) const {  // log 0 = -inf
    return std::log(sum[i]) + (!scale.online ? scale.inverse : sum[i] > 0 ? max[i] : 0.0);
  }
  std::vector<double> logs(const Scale& scale) const {
    std::vector<double> nats(sum.size());
    for (size_t i = 0; i < sum.size(); ++i) nats[i] = log(scale, i);
    return nats;
  }
};

}  // namespace

double dot(const float* a, const float* b, int64_t D) {
  double sum = 0;
  for (int64_t k = 0; k < D; ++k) sum += static_cast<double>(a[k]) * b[k];
  return sum;
}

LogSums log_sums(const Problem& p) {
  Running rows(p.anchors.n), columns(p.mutual ? p.contrast().n : 0);
  const auto add = p.online() ? p.kernels.sum_online : p.kernels.sum_fixed;
  p.for_tiles(
      p.mutual, [&](int64_t I, int64_t J) { return !p.of.apart || p.has_negatives(I, J); }, nullptr,
      [&](TileView tile, bool both, int64_t i0, int64_t j0, Ahead&) {
        if (p.sums_have_all()) tile.positives = nullptr;  // nothing to leave out
        add(tile, rows.at(i0), !both ? RunningSum{nullptr, nullptr} : p.self ? rows.at(j0) : columns.at(j0));
      });
  return {rows.logs(p.scale), columns.logs(p.scale)};
}

PositivesOfBoth positives(const Problem& p, const LogSums& log_z) {
  PositivesOfBoth out{Positives(p.anchors.n), Positives(p.mutual ? p.contrast().n : 0)};
  std::vector<float> of_rows(p.anchors.n + kOverhang), of_columns(p.mutual ? p.contrast().n + kOverhang : 0);
  for (size_t i = 0; i < log_z.rows.size(); ++i) of_rows[i] = p.scale.of_log_sum(log_z.rows[i]);
  for (size_t j = 0; j < log_z.columns.size(); ++j) of_columns[j] = p.scale.of_log_sum(log_z.columns[j]);
  const auto sums = [](Positives& of, const std::vector<float>& log_sum, int64_t i) {
    return PositiveSums{log_sum.data() + i, of.loss.data() + i, of.weight.data() + i, of.mass.data() + i};
  };
  p.for_positive_tiles([&](const TileView& tile, bool both, int64_t i0, int64_t j0) {
    const PositiveSums none{nullptr, nullptr, nullptr, nullptr};
    p.kernels.positives(tile, sums(out.rows, of_rows, i0),
                        !both    ? none
                        : p.self ? sums(out.rows, of_rows, j0)
                                 : sums(out.columns, of_columns, j0));
  });
  return out;
}

namespace {

// What gradient tiles need of every anchor, in sorted order.
struct Terms {
  std::vector<float> weight, pull, sum;

  explicit Terms(int64_t n) : weight(n + kOverhang, 0.0f), pull(weight), sum(weight) {}
  Terms(const Problem& p, const SortedRows& set, const Statistics& of, double largest) : Terms(set.n) {
    const float *d = of.d_loss.const_data_ptr<float>(), *log_z = of.log_sum.const_data_ptr<float>(),
                *w = of.weight.const_data_ptr<float>();
    const float* mass = of.mass.const_data_ptr<float>();
    for (int64_t i = 0; i < set.n; ++i) {
      const int64_t from = set.source[i];
      set_one(p, i, largest == 0 ? 0 : d[from] / largest, log_z[from], w[from], mass[from]);
    }
  }
  // g: d_loss over the largest; the others as the statistics have them.
  void set_one(const Problem& p, int64_t i, double g, float log_z, float w, float mass) {
    sum[i] = p.online() ? std::numeric_limits<float>::infinity() : 0;  // an empty sum: all terms vanish
    if (!(mass > 0) || log_z == -kInf) return;
    const double z = std::exp(log_z - p.scale.inverse);
    pull[i] = static_cast<float>(g / mass);
    sum[i] = static_cast<float>(p.online() ? log_z : z);
    weight[i] = static_cast<float>(g * (p.of.softplus ? w : 1.0) / (p.online() ? 1 : z));
  }
  GradientTerms at(int64_t i) const { return {weight.data() + i, pull.data() + i, sum.data() + i}; }
};

Statistics dense(const Statistics& of) {
  return {of.d_loss.to(at::kFloat).contiguous(), of.log_sum.contiguous(), of.weight.contiguous(), of.mass.contiguous()};
}

// |d_loss| of the anchors that have a positive; all terms are divided by it, so none overflows.
double largest_of(const SortedRows& set, const Statistics& of) {
  const float* d = of.d_loss.const_data_ptr<float>();
  const float* mass = of.mass.const_data_ptr<float>();
  double largest = 0;
  for (int64_t i = 0; i < set.n; ++i)
    if (mass[set.source[i]] > 0) largest = std::max(largest, std::abs(static_cast<double>(d[set.source[i]])));
  return largest;
}

}  // namespace

Gradients gradients(Problem& p, const Statistics& of_rows, const Statistics* of_columns, bool wants_rows,
                    bool wants_columns, bool wants_along) {
  SortedRows &a = p.anchors, &c = p.contrast();
  const Statistics rows = dense(of_rows);
  double largest = largest_of(a, rows);
  std::optional<Terms> column_terms;
  if (of_columns != nullptr) {
    const Statistics columns = dense(*of_columns);
    largest = std::max(largest, largest_of(c, columns));
    column_terms.emplace(p, c, columns, largest);
  }
  const Terms terms(p, a, rows, largest);
  wants_rows |= wants_along;
  wants_columns &= !p.self;
  if (wants_rows) c.pack(Part::kValues, p.kernels);
  if (wants_columns) a.pack(Part::kValues, p.kernels);
  if (p.kernels.bf16 && !wants_along) p.forget_rows();

  Gradients out{scratch({wants_rows ? a.operand.count : 0, a.operand.stride}),
                scratch({wants_columns ? c.operand.count : 0, c.operand.stride}), largest * p.scale.inverse, 0};
  for (Tensor& d : {std::ref(out.rows), std::ref(out.columns)}) d.zero_();
  float* d_a = wants_rows ? out.rows.mutable_data_ptr<float>() : nullptr;
  float* d_c = wants_columns ? out.columns.mutable_data_ptr<float>() : nullptr;
  const auto gradient = p.online() ? p.kernels.gradient_online : p.kernels.gradient_fixed;
  const auto terms_of_columns = [&](int64_t j0) {
    if (p.self) return terms.at(j0);
    return column_terms.has_value() ? column_terms->at(j0) : GradientTerms{nullptr, nullptr, nullptr};
  };
  if (largest != 0 && (wants_rows || wants_columns))
    p.for_tiles(
        wants_columns, [](int64_t, int64_t) { return true; },
        [&](int64_t I, int64_t J, bool new_rows, bool new_columns) {
          const int64_t i0 = p.row_blocks.first(I), m = p.row_blocks.length(I);
          const int64_t j0 = p.column_blocks.first(J), n = p.column_blocks.length(J);
          Ahead ahead;
          if (wants_rows && new_columns) p.kernels.ahead_of(c.operand, Part::kValues, j0, n, ahead);
          if (wants_rows && new_rows) ahead.add(d_a + i0 * a.operand.stride, m * a.operand.stride * 4);
          if ((p.self || wants_columns) && new_columns)
            ahead.add((p.self ? d_a : d_c) + j0 * c.operand.stride, n * c.operand.stride * 4);
          if ((p.self || wants_columns) && new_rows) p.kernels.ahead_of(a.operand, Part::kValues, i0, m, ahead);
          return ahead;
        },
        [&](const TileView& tile, bool both, int64_t i0, int64_t j0, Ahead& next) {
          gradient(tile, terms.at(i0), terms_of_columns(j0));
          if (wants_rows) p.kernels.add_rows(tile.s, tile.m, tile.n, c.operand, j0, d_a + i0 * a.operand.stride, next);
          if (p.self && both)
            p.kernels.add_columns(tile.s, tile.m, tile.n, a.operand, i0, d_a + j0 * a.operand.stride, next);
          if (wants_columns)
            p.kernels.add_columns(tile.s, tile.m, tile.n, a.operand, i0, d_c + j0 * c.operand.stride, next);
        });
  for (int64_t i = 0; wants_along && i < a.n; ++i)  // self contrast counts every pair twice
    out.along += dot(a.row(i), d_a + i * a.operand.stride, a.operand.depth) * (p.self ? 0.5 : 1.0);
  return out;
}

namespace {

// Of sorted rows [first, last) whose sums are complete, and sums over whose positives are: these as means, and terms,
// unless all d_loss are 0.
void finish_rows(const Problem& p, const Running& sums, const std::vector<double>& d_loss, double largest,
                 int64_t first, int64_t last, Positives& of, Terms& terms) {
  for (int64_t i = first; i < last; ++i) {
    const double nats = sums.log(p.scale, i), mass = of.mass[i];
    const bool counts = mass > 0 && !(nats == -kInf && !std::isnan(of.loss[i]));  // of an empty sum exactly nothing
    of.loss[i] = counts ? of.loss[i] / mass : 0;
    if (largest != 0)
      terms.set_one(p, i, d_loss[i] / largest, static_cast<float>(nats),
                    static_cast<float>(counts ? of.weight[i] / mass : 0), static_cast<float>(mass));
  }
}

double largest_of(const std::vector<double>& d_loss) {
  double largest = 0;
  for (const double d : d_loss) largest = std::max(largest, std::abs(d));
  return largest;
}

}  // namespace

LossesAndGradients losses_and_gradients_of_self(Problem& p, const Tensor& x, const std::vector<double>& d_loss,
                                                at::ScalarType waiting, bool wants_rows, bool wants_along) {
  SortedRows& a = p.anchors;
  const int64_t stride = a.operand.stride;
  const double largest = largest_of(d_loss);
  const bool d_rows_made = (wants_rows || wants_along) && largest != 0;
  if (d_rows_made) a.pack(Part::kValues, p.kernels);
  if (p.kernels.bf16 && !wants_along) p.forget_rows();

  Running sums(a.n);
  Terms terms(a.n);
  LossesAndGradients out{Positives(a.n), Tensor(), {Tensor(), Tensor(), largest * p.scale.inverse, 0}};
  Positives& of = out.positives;
  const Tensor kept = scratch({p.kept_tiles()});
  float* const tiles = kept.mutable_data_ptr<float>();
  const auto all = [](int64_t, int64_t) { return true; };
  const auto add = p.online() ? p.kernels.sum_online : p.kernels.sum_fixed;
  const auto gradient = p.online() ? p.kernels.gradient_online : p.kernels.gradient_fixed;
  p.for_kept_tiles(tiles, true, all, [&](TileView tile, bool both, int64_t i0, int64_t j0) {
    if (p.sums_have_all()) tile.positives = nullptr;  // nothing to leave out
    add(tile, sums.at(i0), both ? sums.at(j0) : RunningSum{nullptr, nullptr});
  });
  std::vector<float> log_z(a.n + kOverhang);
  for (int64_t i = 0; i < a.n; ++i) log_z[i] = p.scale.of_log_sum(sums.log(p.scale, i));
  const auto of_rows = [&](int64_t i) {
    return PositiveSums{log_z.data() + i, of.loss.data() + i, of.weight.data() + i, of.mass.data() + i};
  };
  p.for_kept_tiles(
      tiles, false, [&](int64_t I, int64_t J) { return p.has_positives(I, J); },
      [&](const TileView& tile, bool both, int64_t i0, int64_t j0) {
        p.kernels.positives(tile, of_rows(i0), both ? of_rows(j0) : PositiveSums{nullptr, nullptr, nullptr, nullptr});
      });
  finish_rows(p, sums, d_loss, largest, 0, a.n, of, terms);
  const Tensor d_rows = scratch({d_rows_made ? a.operand.count : 0, stride}).zero_();
  float* const d_a = d_rows.mutable_data_ptr<float>();
  if (d_rows_made)
    p.for_kept_tiles(tiles, false, all, [&](const TileView& tile, bool both, int64_t i0, int64_t j0) {
      Ahead nothing;
      gradient(tile, terms.at(i0), terms.at(j0));
      p.kernels.add_rows(tile.s, tile.m, tile.n, a.operand, j0, d_a + i0 * stride, nothing);
      if (both) p.kernels.add_columns(tile.s, tile.m, tile.n, a.operand, i0, d_a + j0 * stride, nothing);
    });
  for (int64_t i = 0; d_rows_made && wants_along && i < a.n; ++i)  // every pair is counted twice
    out.d.along += 0.5 * dot(a.row(i), d_a + i * stride, a.operand.depth);
  if (wants_rows && d_rows_made) {
    out.d_anchors = unsort_gradient(a, x, d_a, out.d.scale, waiting);
  } else {
    out.d_anchors = at::zeros(wants_rows ? x.sizes() : at::IntArrayRef{0}, x.options().dtype(waiting));
  }
  return out;
}

LossesAndGradients losses_and_gradients(Problem& p, const Tensor& x_, const std::vector<double>& d_loss,
                                        at::ScalarType waiting, bool wants_rows, bool wants_columns, bool wants_along) {
  SortedRows &a = p.anchors, &c = p.contrast();
  const Tensor x = with_dense_rows(x_);
  const int64_t stride = a.operand.stride;
  const double largest = largest_of(d_loss);
  const bool d_rows_made = wants_rows || wants_along;
  if (d_rows_made) c.pack(Part::kValues, p.kernels);
  if (p.kernels.bf16) p.forget_rows();

  Running sums(a.n);
  Terms terms(a.n);
  std::vector<float> log_z(a.n + kOverhang);
  std::vector<double> along(Panel::all(p).count(), 0.0);
  const auto options = x.options().dtype(waiting).memory_format(at::MemoryFormat::Contiguous);
  LossesAndGradients out{
      Positives(a.n),
      wants_rows ? at::zeros(x.sizes(), options) : at::empty({0}, options),
      {Tensor(), scratch({wants_columns ? c.operand.count : 0, stride}), largest * p.scale.inverse, 0}};
  out.d.columns.zero_();
  float* d_c = wants_columns ? out.d.columns.mutable_data_ptr<float>() : nullptr;
  const auto add = p.online() ? p.kernels.sum_online : p.kernels.sum_fixed;
  const auto gradient = p.online() ? p.kernels.gradient_online : p.kernels.gradient_fixed;
  Panel::for_all(p, x, wants_columns, [&](const Panel& panel) {
    const int64_t i0 = panel.i0, m = panel.m;
    panel.compute([&](TileView tile, int64_t) {
      if (p.sums_have_all()) tile.positives = nullptr;  // nothing to leave out
      add(tile, sums.at(i0), {nullptr, nullptr});
    });
    for (int64_t i = i0; i < i0 + m; ++i) log_z[i] = p.scale.of_log_sum(sums.log(p.scale, i));
    Positives& of = out.positives;
    panel.where_positives([&](const TileView& tile, int64_t) {
      p.kernels.positives(tile, {log_z.data() + i0, of.loss.data() + i0, of.weight.data() + i0, of.mass.data() + i0},
                          {nullptr, nullptr, nullptr, nullptr});
    });
    finish_rows(p, sums, d_loss, largest, i0, i0 + m, of, terms);
    if (largest == 0 || !(d_rows_made || wants_columns)) return;
    float* const d_a = panel.d_rows;
    std::fill(d_a, d_a + panel.rows.count * stride, 0.0f);
    Ahead nothing;
    panel.finish(
        [&](const TileView& tile, int64_t j0) {
          gradient(tile, terms.at(i0), {nullptr, nullptr, nullptr});
          if (d_rows_made) p.kernels.add_rows(tile.s, tile.m, tile.n, c.operand, j0, d_a, nothing);
        },
        [&](const TileView& tile, int64_t j0) {
          if (wants_columns) p.kernels.add_columns(tile.s, tile.m, tile.n, panel.rows, 0, d_c + j0 * stride, nothing);
        });
    for (int64_t i = 0; wants_along && i < m; ++i)
      along[panel.number] += dot(panel.rows.rows + i * stride, d_a + i * stride, a.operand.depth);
    if (wants_rows) unsort_rows(a, x, i0, i0 + m, d_a, out.d.scale, out.d_anchors);
  });
  for (const double of_panel : along) out.d.along += of_panel;
  return out;
}

}  // namespace fastpixcon::cpu
