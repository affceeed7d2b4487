#include "cuda/host/sweep.h"

#include <ATen/ops/clamp.h>
#include <ATen/ops/empty.h>

#include "cuda/host/tensors.h"

namespace fastpixcon {

using at::Tensor;

namespace {

// What a launch leaves, of a few parts of the columns.
struct Swept {
  Tensor totals;                          // [splits, N]
  std::optional<Tensor> seconds, masses;  // the same
  std::optional<Tensor> products;         // [splits, N, D]
  int64_t splits() const { return totals.size(0); }
};

at::TensorOptions floats(const Sweep& s) { return s.anchors.x.options().dtype(at::kFloat); }

ContrastLaunch launch_of(const Sweep& s) {
  // Only under a rule without tensor cores.
  const bool plain = s.anchors.precision == Precision::kFloat && !s.ruling.exists;
  const Precision precision = plain ? tensor_precision(s.anchors.x) : s.anchors.precision;
  const int row_bytes = static_cast<int>(s.anchors.row_bytes()), shared = device_limits(s.anchors.x).shared;
  const bool mined = s.mining.has_value() || s.column_mining.has_value();
  if (s.ruling.exists)
    return is_half(precision) ? contrast_ruled_half(precision, row_bytes, shared, mined)
                              : contrast_ruled_float32(precision, row_bytes);
  switch (precision) {
    case Precision::kBFloat16: return contrast_bfloat16(row_bytes, shared, mined);
    case Precision::kHalf: return contrast_float16(row_bytes, shared, mined);
    default: return contrast_float32(precision, row_bytes);
  }
}

// products_of_one: where products may lie that need no sum.
Swept run(const Sweep& s, Task task, const std::optional<Tensor>& log_sums,
          const std::optional<Tensor>& products_of_one, const std::optional<Tensor>& largest) {
  const ContrastLaunch how = launch_of(s);
  const int64_t N = s.anchors.n(), blocks = ceil_div<int64_t>(N, how.rows);
  const int64_t tiles = s.columns.most_visited(task == Task::kPositives) / how.columns + 1;
  const int64_t splits = N == 0 ? 1 : best_splits(blocks, tiles, N, device_limits(s.anchors.x).multiprocessors);
  const bool is_gradient = task == Task::kGradient || task == Task::kFixedGradient;
  Swept out{at::empty({is_gradient ? 0 : splits, N}, floats(s))};
  if (task == Task::kOnline || task == Task::kPositives) out.seconds = at::empty({splits, N}, floats(s));
  if (task == Task::kPositives) out.masses = at::empty({splits, N}, floats(s));
  if (is_gradient) out.products = at::empty({splits, N, s.anchors.width()}, floats(s));
  if (products_of_one.has_value())
    out.products = splits == 1 ? *products_of_one : at::empty({splits, N, s.D}, floats(s));
  launch(how.kernel, dim3(blocks, splits), dim3(how.threads), how.shared, s.anchors.row_set(s.mining, s.terms),
         s.columns.row_set(s.column_mining, s.column_terms), s.itself, s.temperature, log_sums, largest,
         std::tuple(out.totals, out.seconds, out.masses, out.products), s.D, s.columns.ring, static_cast<int>(task),
         static_cast<int>(s.denominator), rules_of(s.ruling, s.anchors, s.columns));
  return out;
}

dim3 warps(int64_t N) { return dim3(ceil_div<int64_t>(N, kContrastThreads / 32)); }
dim3 threads(int64_t N) { return dim3(ceil_div<int64_t>(N, kContrastThreads)); }

}  // namespace

Columns columns_of_bank(const BankRows& bank, const Ruling& ruling) {
  const int64_t K = bank.x.size(0), S = bank.x.size(1);
  check_count("bank", K * S);
  const Tensor labels = bank.labels.reshape({K * S}).contiguous();
  Columns columns(in_pieces(bank.x.reshape({K * S, bank.x.size(2)}), labels, bank_precision(bank.x)), labels, S);
  if (ruling.exists) columns.weights = bank_weights(ruling, bank, columns.labels);
  return columns;
}

Prepared anchors_of_bank(const Rows& anchors, int64_t classes, const Ruling& ruling, bool is_sorted,
                         const std::optional<Prepared>& like) {
  const bool wide = anchors.labels.scalar_type() == at::kLong;
  Rows rows = labelled_for(ruling, anchors);
  // Without class weights classes that the bank has not are all alike.
  if (wide && ruling.classes == 0) rows.labels = at::clamp(anchors.labels, -2, classes).to(at::kInt);
  const Precision precision = bank_precision(rows.x);
  const bool alike = like.has_value() && !wide && like->precision == precision;
  if (alike && !ruling.exists && !like->weights.has_value()) return *like;
  // Clamped labels are in the order of the others.
  const Order by = like.has_value() ? Order{like->source, std::nullopt} : order(rows.labels, is_sorted);
  Prepared sorted = prepare(rows, "unit", by, std::nullopt, precision);
  add_rules(ruling, rows, sorted);
  return sorted;
}

std::tuple<Tensor, Tensor> sums_of(const Sweep& s, bool fixed, bool wants_mean) {
  const int64_t N = s.anchors.n();
  Tensor log_sum = at::empty({N}, floats(s));
  const std::optional<Tensor> none;
  std::optional<Tensor> mean;
  if (wants_mean) mean = at::empty({N, s.D}, floats(s));
  // Weights that are not relative to their sum may be too large, or those of float16 too small.
  const bool twice = wants_mean && (!fixed || s.anchors.precision == Precision::kHalf);
  const Swept first = run(s, fixed ? Task::kSums : Task::kOnline, none, twice ? none : mean, none);
  launch(log_sums_kernel(), warps(N), dim3(kContrastThreads), 0, first.totals, first.seconds, s.anchors.source,
         s.temperature, first.products, log_sum, twice ? none : mean, N, s.D, first.splits());
  if (twice) {
    const Swept second = run(s, Task::kSums, log_sum, mean, none);
    launch(log_sums_kernel(), warps(N), dim3(kContrastThreads), 0, second.totals, none, s.anchors.source, s.temperature,
           second.products, none, mean, N, s.D, second.splits());
  }
  return {log_sum, wants_mean ? *mean : at::empty({0}, floats(s))};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> positives_of(const Sweep& s, const Tensor& log_sum, bool wants_pull,
                                                        bool means) {
  const int64_t N = s.anchors.n();
  Tensor loss = at::empty({N}, floats(s)), weight = at::empty({N}, floats(s)), mass = at::empty({N}, floats(s));
  std::optional<Tensor> pull;
  if (wants_pull) pull = at::empty({N, s.D}, floats(s));
  const Tensor log_z = log_sum.contiguous();
  const bool may_be_void = s.denominator != Denominator::kNegatives;
  const Swept swept = run(s, Task::kPositives, log_z, pull, std::nullopt);
  launch(positive_sums_kernel(), warps(N), dim3(kContrastThreads), 0, swept.totals, swept.seconds, swept.masses,
         s.anchors.source, swept.products, loss, weight, mass, pull, N, s.D, swept.splits(), means,
         may_be_void ? std::optional(log_z) : std::nullopt);
  return {loss, weight, mass, wants_pull ? *pull : at::empty({0}, floats(s))};
}

Tensor gradient_of(const Sweep& s, const std::optional<Tensor>& largest, bool fixed) {
  return *run(s, fixed ? Task::kFixedGradient : Task::kGradient, std::nullopt, std::nullopt, largest).products;
}

Tensor log_of(const Tensor& sums, const std::optional<Tensor>& maxima, const Prepared& anchors,
              const Tensor& temperature) {
  const int64_t N = anchors.n();
  Tensor log_sum = at::empty({N}, sums.options());
  const std::optional<Tensor> none;
  launch(log_sums_kernel(), warps(N), dim3(kContrastThreads), 0, sums, maxima, anchors.source, temperature, none,
         log_sum, none, N, 0, sums.size(0));
  return log_sum;
}

std::optional<Tensor> mining_of(const Pairs& pairs, const Prepared& anchors, uint32_t stream) {
  const auto& [diagonal, mined, seed] = pairs;
  if (!mined.has_value()) return std::nullopt;
  const int64_t N = anchors.n();
  Tensor mining = at::empty({5, N}, mined->options());
  launch(mining_kernel(), threads(N), dim3(kContrastThreads), 0, mined->contiguous(), seed, anchors.source, mining, N,
         pairs.first_anchor(), stream);
  return mining;
}

Tensor itself_of(const Prepared& x, const Prepared& y, int64_t first) {
  const auto options = x.labels.options();
  std::optional<Tensor> places;
  if (y.source.has_value()) {
    places = at::empty({y.n()}, options);
    launch(places_kernel(), threads(y.n()), dim3(kContrastThreads), 0, y.source, places, y.n());
  }
  Tensor itself = at::empty({x.n()}, options);
  launch(itself_kernel(), threads(x.n()), dim3(kContrastThreads), 0, x.source, places, itself, x.n(), y.n(), first);
  return itself;
}

}  // namespace fastpixcon
