// info_nce and its backward on CPU tensors: tiles of logits, never the matrix.
//
// Per step and pair of rows, in units of D multiply-adds: self contrast 1/2 forward and 3/2 backward (the triangle,
// one recomputed tile and two products); separate contrast 1 forward and 1 + one for each gradient backward.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cmath>
#include <functional>
#include <limits>
#include <type_traits>

#include "common/checks.h"
#include "cpu/huge_pages.h"
#include "cpu/schedule.h"
#include "cpu/sorted_rows.h"

namespace fastpixcon {
namespace {

using at::Tensor;
constexpr double kLn2 = 0.693147180559945309417;
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kFixedShiftMin = 0.025;  // below it e^((cos - 1) / temperature) underflows in float
constexpr int64_t kOverhang = 64;         // arrays of row terms are read a vector past their end
constexpr int64_t kScratch = kTile * kTileStride;

// Products of bfloat16 are for bfloat16 rows only; float16 has more bits than that and is computed with in float.
const TileKernels& tile_kernels(at::ScalarType dtype) {
  const bool bf16 = dtype == at::kBFloat16;
  switch (isa()) {
    case Isa::kAmx: return bf16 ? tile_kernels_amx() : tile_kernels_avx512();
    case Isa::kAvx512Bf16: return bf16 ? tile_kernels_avx512_bf16() : tile_kernels_avx512();
    case Isa::kAvx512: return tile_kernels_avx512();
    case Isa::kAvx2: return tile_kernels_avx2();
    case Isa::kAmxEmulated: return bf16 ? tile_kernels_amx_emulated() : tile_kernels_avx512_emulated();
    case Isa::kAvx512Bf16Emulated: return bf16 ? tile_kernels_avx512_bf16_emulated() : tile_kernels_avx512_emulated();
    case Isa::kAvx512Emulated: return tile_kernels_avx512_emulated();
    case Isa::kBaseline: break;
  }
  return tile_kernels_baseline();
}

// One loss: its rows, sorted and packed, and how they are cut into tiles.
struct Problem {
  const TileKernels& kernels;
  bool self, negatives, online;
  float scale;     // of dot products, see TileView
  double inverse;  // 1 / temperature, exactly as `scale` has it, so that sums and logits cancel
  SortedRows anchors, separate;
  Classes classes;
  Blocks row_blocks, column_blocks;

  Problem(const Tensor& anchors_in, const Tensor& anchor_labels, const std::optional<Tensor>& contrast_in,
          const std::optional<Tensor>& contrast_labels, const Tensor& temperature_in, c10::string_view denominator,
          c10::string_view rows)
      : kernels(tile_kernels(anchors_in.scalar_type())),
        self(!contrast_in.has_value()),
        negatives(denominator == "negatives") {
    check_info_nce(anchors_in, anchor_labels, contrast_in, contrast_labels, temperature_in, denominator, rows);
    const double temperature = temperature_in.item<double>();
    TORCH_CHECK_VALUE(temperature > 0, "temperature: got ", temperature, ", want a number > 0");
    online = rows == "any" || temperature < kFixedShiftMin;
    scale = static_cast<float>(1 / temperature / (online ? 1 : kLn2));
    inverse = scale * (online ? 1 : kLn2);
    anchors = sort_rows(anchors_in, anchor_labels, rows == "raw", kernels);
    if (!self) separate = sort_rows(*contrast_in, *contrast_labels, rows == "raw", kernels);
    classes = match_classes(anchors, contrast());
    row_blocks = Blocks::split(anchors.n, kernels.lanes, kernels.block);
    column_blocks = self ? row_blocks : Blocks::split(contrast().n, kernels.lanes, kernels.block);
  }

  const SortedRows& contrast() const { return self ? anchors : separate; }
  const ClassRange& class_of(int64_t i) const { return classes.range[classes.of_anchor[i]]; }
  int64_t num_positives(int64_t i) const {
    return class_of(i).contrast_last - class_of(i).contrast_first - (self ? 1 : 0);
  }

  // Rows of block I have positives among the columns of block J. Classes are in order, so theirs is one range.
  bool has_positives_between(int64_t i0, int64_t i1, int64_t j0, int64_t j1) const {
    return class_of(i0).contrast_first < j1 && class_of(i1 - 1).contrast_last > j0;
  }
  bool has_positives(int64_t I, int64_t J) const {
    const int64_t i = row_blocks.first(I), j = column_blocks.first(J);
    return has_positives_between(i, i + row_blocks.length(I), j, j + column_blocks.length(J));
  }
  bool has_negatives(int64_t I, int64_t J) const {
    const int64_t i = row_blocks.first(I), j = column_blocks.first(J);
    const int32_t first = classes.of_anchor[i];
    return first != classes.of_anchor[i + row_blocks.length(I) - 1] || first != classes.of_contrast[j] ||
           first != classes.of_contrast[j + column_blocks.length(J) - 1];
  }

  // Runs work(view, off the diagonal, first row, first column, what the next tile reads) on the dot products of
  // every kept tile; products(I, J, I is new, J is new) is what work itself reads of blocks that the tile before did
  // not have, null if that is little.
  template <class Keep, class Products, class Work>
  void for_tiles(bool columns_own, const Keep& keep, const Products& products, const Work& work) const {
    const int64_t rows = row_blocks.count(), columns = column_blocks.count();
    schedule(rows, columns, TileSchedule::group(rows), TileSchedule::group(columns), columns_own, keep)
        .run(kScratch, [&](Place tile, Place before, Place after, float* s) {
          const auto [I, J] = tile;
          const int64_t i0 = row_blocks.first(I), j0 = column_blocks.first(J);
          Ahead next;
          if (after.I >= 0 && after.I != I)
            kernels.ahead_of(anchors.operand, Part::kLeft, row_blocks.first(after.I), row_blocks.length(after.I), next);
          if (after.J >= 0 && after.J != J)
            kernels.ahead_of(contrast().operand, Part::kRight, column_blocks.first(after.J),
                             column_blocks.length(after.J), next);
          Ahead own;
          if constexpr (!std::is_null_pointer_v<Products>) own = products(I, J, before.I != I, before.J != J);
          run_tile(has_positives(I, J), I != J, i0, row_blocks.length(I), j0, column_blocks.length(J), s,
                   std::is_null_pointer_v<Products> ? next : own,
                   [&](const TileView& view, bool off, int64_t i, int64_t j) { work(view, off, i, j, next); });
        });
  }

  // The same for the tiles around the diagonal class blocks, cut down to the rows and columns of shared classes.
  template <class Work>
  void for_positive_tiles(const Work& work) const {
    const int64_t lanes = kernels.lanes, mean = anchors.n / std::max<int64_t>(classes.range.size(), 1);
    const int64_t size = std::clamp(round_up(mean, lanes), std::max<int64_t>(lanes, 32), kernels.block);
    const Blocks rows{anchors.n, size}, columns{contrast().n, size};
    const auto row_range = [&](int64_t I, int64_t J) {
      const int64_t j0 = columns.first(J), j1 = j0 + columns.length(J);
      int64_t first = rows.first(I), last = first + rows.length(I);
      while (first < last && class_of(first).contrast_last <= j0) first = std::min(last, class_of(first).anchor_last);
      while (first < last && class_of(last - 1).contrast_first >= j1)
        last = std::max(first, class_of(last - 1).anchor_first);
      return std::pair(first / lanes * lanes, last);  // tiles start at multiples of lanes
    };
    const auto keep = [&](int64_t I, int64_t J) {
      return has_positives_between(rows.first(I), rows.first(I) + rows.length(I), columns.first(J),
                                   columns.first(J) + columns.length(J));
    };
    const auto tiles = [&](Place tile, Place, Place, float* s) {
      const auto [I, J] = tile;
      const auto [first, last] = row_range(I, J);
      if (first >= last) return;
      const int64_t j0 = columns.first(J), j1 = j0 + columns.length(J);
      const bool off = !self || I != J;
      const int64_t from = off ? std::max(j0, class_of(first).contrast_first / lanes * lanes) : j0;
      const int64_t to = off ? std::min(j1, class_of(last - 1).contrast_last) : j1;
      Ahead nothing;
      if (from < to) run_tile(true, off, first, last - first, from, to - from, s, nothing, work);
    };
    schedule(rows.count(), columns.count(), 1, 1, false, keep).run(kScratch, tiles);
  }

 private:
  using Place = TileSchedule::Place;

  template <class Keep>
  TileSchedule schedule(int64_t rows, int64_t columns, int64_t row_group, int64_t column_group, bool columns_own,
                        const Keep& keep) const {
    return self ? TileSchedule::triangle(rows, row_group, keep)
                : TileSchedule::rectangle(rows, columns, row_group, column_group, columns_own, keep);
  }

  template <class Work>
  void run_tile(bool any_positives, bool off_diagonal, int64_t i0, int64_t m, int64_t j0, int64_t n, float* s,
                Ahead& ahead, const Work& work) const {
    Range positives[kTile];
    for (int64_t i = 0; any_positives && i < m; ++i) {
      const ClassRange& c = class_of(i0 + i);
      positives[i] = {static_cast<int32_t>(std::clamp<int64_t>(c.contrast_first - j0, 0, n)),
                      static_cast<int32_t>(std::clamp<int64_t>(c.contrast_last - j0, 0, n))};
    }
    kernels.logits(anchors.operand, i0, m, contrast().operand, j0, n, s, ahead);
    work(TileView{s, m, n, any_positives ? positives : nullptr, negatives, self && !off_diagonal, scale,
                  online ? 0 : scale, static_cast<float>(online ? 1 / kLn2 : 1)},
         off_diagonal, i0, j0);
  }
};

// Sums of the contrast rows of each class, [classes][D].
std::vector<double> class_sums(const Problem& p) {
  const SortedRows& set = p.contrast();
  const int64_t D = set.operand.depth;
  std::vector<double> sums(p.classes.range.size() * D, 0.0);
  at::parallel_for(0, D, 16, [&](int64_t first, int64_t last) {
    for (int64_t j = 0; j < set.n; ++j) {
      double* sum = sums.data() + p.classes.of_contrast[j] * D;
      for (int64_t k = first; k < last; ++k) sum[k] += set.row(j)[k];
    }
  });
  return sums;
}

double dot(const float* a, const double* b, int64_t D) {
  double sum = 0;
  for (int64_t k = 0; k < D; ++k) sum += a[k] * b[k];
  return sum;
}

double dot(const float* a, const float* b, int64_t D) {
  double sum = 0;
  for (int64_t k = 0; k < D; ++k) sum += static_cast<double>(a[k]) * b[k];
  return sum;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> info_nce(const Tensor& anchors, const Tensor& anchor_labels,
                                                    const std::optional<Tensor>& contrast,
                                                    const std::optional<Tensor>& contrast_labels,
                                                    const Tensor& temperature, c10::string_view denominator,
                                                    c10::string_view rows, bool, bool) {
  const Problem p(anchors, anchor_labels, contrast, contrast_labels, temperature, denominator, rows);
  const SortedRows& a = p.anchors;
  const int64_t N = anchors.size(0), D = anchors.size(1), n = a.n;

  // Z of every anchor.
  std::vector<double> sum(n, 0.0);
  std::vector<float> max(n, -std::numeric_limits<float>::infinity());
  const auto running = [&](int64_t i) { return RunningSum{max.data() + i, sum.data() + i}; };
  const auto add_sums = p.online ? p.kernels.sum_online : p.kernels.sum_fixed;
  p.for_tiles(
      false, [&](int64_t I, int64_t J) { return !p.negatives || p.has_negatives(I, J); }, nullptr,
      [&](TileView tile, bool mirrored, int64_t i0, int64_t j0, Ahead&) {
        if (!p.negatives) tile.positives = nullptr;  // nothing to leave out
        add_sums(tile, running(i0), p.self && mirrored ? running(j0) : RunningSum{nullptr, nullptr});
      });
  std::vector<double> log_z(n);                       // nats
  std::vector<float> log_sum_x(n + kOverhang, 0.0f);  // in the unit and with the shift of the tiles' logits
  const double shift = p.online ? 0.0 : p.inverse;
  for (int64_t i = 0; i < n; ++i) {
    log_z[i] = std::log(sum[i]) + (p.online && sum[i] > 0 ? max[i] : shift);  // log 0 = -inf
    log_sum_x[i] = static_cast<float>(p.online ? log_z[i] : std::log2(sum[i]));
  }

  // Mean over the positives.
  std::vector<double> loss_sum(n, 0.0), weight_sum(n, 0.0);
  if (p.negatives) {
    const auto sums = [&](int64_t i) {
      return PositiveSums{log_sum_x.data() + i, loss_sum.data() + i, weight_sum.data() + i};
    };
    p.for_positive_tiles([&](const TileView& tile, bool mirrored, int64_t i0, int64_t j0) {
      p.kernels.positives(tile, sums(i0), p.self && mirrored ? sums(j0) : PositiveSums{nullptr, nullptr, nullptr});
    });
  }
  std::vector<double> sums;  // "all": the mean of positive logits is a dot product with the sum of the class
  if (!p.negatives) sums = class_sums(p);

  const auto options = anchors.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous);
  Tensor loss = at::zeros({N}, options), weight = at::zeros({N}, options), log_sum = at::empty({N}, options);
  Tensor num_positives = at::zeros({N}, options.dtype(at::kInt));
  log_sum.fill_(-kInf);
  float *loss_out = loss.mutable_data_ptr<float>(), *weight_out = weight.mutable_data_ptr<float>(),
        *log_sum_out = log_sum.mutable_data_ptr<float>();
  int32_t* num_positives_out = num_positives.mutable_data_ptr<int32_t>();
  at::parallel_for(0, n, 256, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t to = a.source[i], count = p.num_positives(i);
      log_sum_out[to] = static_cast<float>(log_z[i]);
      num_positives_out[to] = static_cast<int32_t>(count);
      if (count == 0 || log_z[i] == -kInf) continue;
      if (p.negatives) {
        loss_out[to] = static_cast<float>(loss_sum[i] / count);
        weight_out[to] = static_cast<float>(weight_sum[i] / count);
      } else {
        double similarity = dot(a.row(i), sums.data() + p.classes.of_anchor[i] * D, D);
        if (p.self) similarity -= dot(a.row(i), a.row(i), D);
        loss_out[to] = static_cast<float>(log_z[i] - similarity * p.inverse / count);
      }
    }
  });
  return {loss, log_sum, weight, num_positives};
}

// What gradient tiles need of every anchor, in sorted order.
struct AnchorTerms {
  std::vector<float> weight, pull, sum;
  double largest = 0;  // |d_loss|; all terms are divided by it, so none overflows

  AnchorTerms(const Problem& p, const Tensor& d_loss_in, const Tensor& log_sum_in, const Tensor& weight_in)
      : weight(p.anchors.n + kOverhang, 0.0f), pull(weight), sum(weight) {
    const Tensor d_loss = d_loss_in.to(at::kFloat).contiguous(), log_sum = log_sum_in.contiguous();
    const Tensor weight_rows = weight_in.contiguous();
    const float *d = d_loss.const_data_ptr<float>(), *log_z = log_sum.const_data_ptr<float>(),
                *w = weight_rows.const_data_ptr<float>();
    const int64_t n = p.anchors.n;
    for (int64_t i = 0; i < n; ++i)
      if (p.num_positives(i) > 0) largest = std::max(largest, std::abs(static_cast<double>(d[p.anchors.source[i]])));
    for (int64_t i = 0; i < n; ++i) {
      const int64_t from = p.anchors.source[i], count = p.num_positives(i);
      sum[i] = p.online ? std::numeric_limits<float>::infinity() : 0;  // an empty sum: all terms vanish
      if (count == 0 || log_z[from] == -kInf || largest == 0) continue;
      const double g = d[from] / largest, z = std::exp(log_z[from] - p.inverse);
      pull[i] = static_cast<float>(g / count);
      sum[i] = static_cast<float>(p.online ? log_z[from] : z);
      weight[i] = static_cast<float>(g * (p.negatives ? w[from] : 1.0) / (p.online ? 1 : z));
    }
  }
  GradientTerms at(int64_t i) const { return {weight.data() + i, pull.data() + i, sum.data() + i}; }
};

std::tuple<Tensor, Tensor, Tensor> info_nce_backward(const Tensor& d_loss, const Tensor& anchors,
                                                     const Tensor& anchor_labels, const std::optional<Tensor>& contrast,
                                                     const std::optional<Tensor>& contrast_labels,
                                                     const Tensor& temperature, const Tensor& log_sum,
                                                     const Tensor& weight, const Tensor& num_positives,
                                                     c10::string_view denominator, c10::string_view rows, bool, bool,
                                                     std::array<bool, 3> output_mask) {
  const Problem p(anchors, anchor_labels, contrast, contrast_labels, temperature, denominator, rows);
  for (const Tensor& x : {d_loss, log_sum, weight, num_positives})
    TORCH_CHECK_VALUE(x.dim() == 1 && x.size(0) == anchors.size(0), "statistics: got shape ", x.sizes(), ", want [",
                      anchors.size(0), "]");
  const AnchorTerms terms(p, d_loss, log_sum, weight);
  const SortedRows &a = p.anchors, &c = p.contrast();
  const bool wants_anchors = output_mask[0] || output_mask[2], wants_contrast = output_mask[1] && !p.self;

  // Gradients of the sorted rows, in units of largest / temperature.
  const auto options = anchors.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous);
  Tensor d_rows = at::empty({wants_anchors ? a.operand.count : 0, a.operand.stride}, options);
  Tensor d_columns = at::empty({wants_contrast ? c.operand.count : 0, c.operand.stride}, options);
  for (Tensor& d : {std::ref(d_rows), std::ref(d_columns)}) {
    prefer_huge_pages(d.mutable_data_ptr(), d.nbytes());
    d.zero_();
  }
  float* d_a = wants_anchors ? d_rows.mutable_data_ptr<float>() : nullptr;
  float* d_c = wants_contrast ? d_columns.mutable_data_ptr<float>() : nullptr;
  const auto gradient = p.online ? p.kernels.gradient_online : p.kernels.gradient_fixed;
  const GradientTerms none{nullptr, nullptr, nullptr};
  if (terms.largest != 0 && (wants_anchors || wants_contrast))
    p.for_tiles(
        wants_contrast, [](int64_t, int64_t) { return true; },
        [&](int64_t I, int64_t J, bool new_rows, bool new_columns) {
          const int64_t i0 = p.row_blocks.first(I), m = p.row_blocks.length(I);
          const int64_t j0 = p.column_blocks.first(J), n = p.column_blocks.length(J);
          Ahead ahead;
          if (wants_anchors && new_columns) p.kernels.ahead_of(c.operand, Part::kValues, j0, n, ahead);
          if (wants_anchors && new_rows) ahead.add(d_a + i0 * a.operand.stride, m * a.operand.stride * 4);
          if ((p.self || wants_contrast) && new_columns)
            ahead.add((p.self ? d_a : d_c) + j0 * c.operand.stride, n * c.operand.stride * 4);
          if ((p.self || wants_contrast) && new_rows) p.kernels.ahead_of(a.operand, Part::kValues, i0, m, ahead);
          return ahead;
        },
        [&](const TileView& tile, bool mirrored, int64_t i0, int64_t j0, Ahead& next) {
          gradient(tile, terms.at(i0), p.self ? terms.at(j0) : none);
          if (wants_anchors)
            p.kernels.add_rows(tile.s, tile.m, tile.n, c.operand, j0, d_a + i0 * a.operand.stride, next);
          if (p.self && mirrored)
            p.kernels.add_columns(tile.s, tile.m, tile.n, a.operand, i0, d_a + j0 * a.operand.stride, next);
          if (wants_contrast)
            p.kernels.add_columns(tile.s, tile.m, tile.n, a.operand, i0, d_c + j0 * c.operand.stride, next);
        });

  const double scale = terms.largest * p.inverse;
  const Tensor nothing = at::empty({0}, anchors.options().memory_format(at::MemoryFormat::Contiguous));
  double along = 0;  // sum_ij G_ij s_ij, which self contrast counts twice
  for (int64_t i = 0; output_mask[2] && i < a.n; ++i)
    along += dot(a.row(i), d_a + i * a.operand.stride, a.operand.depth) * (p.self ? 0.5 : 1.0);
  Tensor d_temperature = at::empty({}, temperature.options());
  d_temperature.fill_(-along * scale * p.inverse);
  return {output_mask[0] ? unsort_gradient(a, anchors, d_a, scale) : nothing,
          wants_contrast ? unsort_gradient(c, *contrast, d_c, scale) : nothing.clone(), d_temperature};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CPU, m) {
  m.impl("info_nce", info_nce);
  m.impl("info_nce_backward", info_nce_backward);
}

}  // namespace fastpixcon
