// mining_thresholds on CUDA tensors, a chunk of anchors at a time.
//
// FLOP: 2 N M D for negatives, 1 / classes of it for positives. Memory beyond inputs and outputs: the counts of a
// chunk, 64 MiB, and copies of the batch (prepare) and, of float32, of the bank (in_pieces).
#include "cuda/mining_thresholds.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <cmath>

#include "common/checks.h"
#include "cuda/host/sweep.h"
#include "cuda/host/tensors.h"
#include "cuda/info_nce.h"

namespace fastpixcon {
namespace {

using at::Tensor;

constexpr int64_t kMostAnchors = 8192;  // of a chunk

MiningKind kind_of(c10::string_view kind) {
  return kind == "none"      ? MiningKind::kNone
         : kind == "hardest" ? MiningKind::kHardest
         : kind == "random"  ? MiningKind::kRandom
                             : MiningKind::kSemiHard;
}

// Adds the cosines of a chunk of anchors with a contrast set to counts [2, n, kMiningBins].
void count(const Prepared& anchors, const Columns& columns, const std::optional<Tensor>& itself, bool positives,
           const Ruling& ruling, const Tensor& counts) {
  const DeviceLimits limits = device_limits(anchors.x);
  const MiningLaunch how = mining_counts(anchors.precision, limits.shared, ruling.grouped());
  const int64_t n = anchors.n(), M = columns.x.size(0), blocks = ceil_div<int64_t>(n, how.rows);
  const int64_t tiles = columns.most_visited(positives) / how.columns + 1;
  const int64_t splits = std::max(best_splits(blocks, tiles, n, limits.multiprocessors),
                                  ceil_div<int64_t>(ceil_div<int64_t>(M, how.columns), kMostCounted / how.columns));
  launch(how.kernel, dim3(blocks, splits), dim3(how.threads), how.shared, anchors.x, anchors.labels, anchors.source,
         columns.x, columns.labels, itself, counts, n, M, anchors.row_bytes(), columns.row_bytes(), columns.ring,
         positives, anchors.groups, columns.groups, static_cast<int>(positives ? ruling.positives : ruling.negatives));
}

Tensor mining_thresholds(const MiningThresholds& call) {
  check_mining_thresholds(call);
  const Tensor& anchors = call.anchors.x;
  const std::vector<int64_t>& keep = call.keep;
  const c10::DeviceGuard guard(anchors.device());
  check_count("anchors", anchors.size(0));
  TORCH_CHECK_VALUE(anchors.size(1) <= kGradientMaxWidth, "anchors: got shape ", anchors.sizes(), ", want [rows, 1 to ",
                    kGradientMaxWidth, "]");
  const int64_t N = anchors.size(0);
  const MiningKind of_negatives = kind_of(call.negatives), of_positives = kind_of(call.positives);
  Ruling ruling;
  ruling.positives = groups_of(call.positive_groups), ruling.negatives = groups_of(call.negative_groups);
  ruling.exists = ruling.grouped();
  Tensor labels = call.anchors.labels;
  const Precision precision = batch_precision(anchors, true);
  std::optional<Prepared> batch;
  std::optional<Order> by;
  if (call.contrast.has_value()) {
    check_count("contrast", call.contrast->count());
    const auto [own, contrast] = of_one_dtype(call.anchors, *call.contrast);
    labels = own.labels;
    by = order(contrast.labels, false);
    batch = prepare(contrast, "unit", *by, by->values, precision);
    add_rules(ruling, contrast, *batch);
  }
  std::optional<Columns> memory;
  if (call.bank.has_value()) memory = columns_of_bank(*call.bank, ruling);

  const auto options = anchors.options().memory_format(at::MemoryFormat::Contiguous);
  Tensor mined = at::empty({4, N}, options.dtype(at::kFloat));
  for (int64_t first = 0; first < N; first += kMostAnchors) {
    const int64_t n = std::min(kMostAnchors, N - first);
    Rows chunk{anchors.narrow(0, first, n), labels.narrow(0, first, n), {}, {}, {}};
    if (call.anchors.groups.has_value()) chunk.groups = call.anchors.groups->narrow(0, first, n);
    const Tensor counts = at::zeros({2, n, kMiningBins}, options.dtype(at::kInt));
    const auto add = [&](const Prepared& rows, const Columns& columns, const std::optional<Tensor>& itself) {
      if (of_negatives != MiningKind::kNone) count(rows, columns, itself, false, ruling, counts);
      if (of_positives != MiningKind::kNone) count(rows, columns, itself, true, ruling, counts);
    };
    if (batch.has_value() && batch->n() > 0) {
      Prepared rows = prepare(chunk, "unit", order(chunk.labels, false), by->values, precision);
      add_rules(ruling, chunk, rows);
      std::optional<Tensor> itself;
      if (call.diagonal.has_value()) itself = itself_of(rows, *batch, *call.diagonal + first);
      add(rows, *batch, itself);
    }
    if (memory.has_value()) add(anchors_of_bank(chunk, call.bank->x.size(0), ruling), *memory, std::nullopt);
    const int64_t most = std::numeric_limits<int32_t>::max();
    launch(mining_thresholds_kernel(), dim3(ceil_div<int64_t>(n, kThresholdThreads / 32)), dim3(kThresholdThreads), 0,
           counts, mined, n, N, first, static_cast<int>(of_negatives), static_cast<int>(of_positives),
           std::llround(call.fraction * 0x1p32), std::min(keep[1], most), std::min(keep[0], most));
  }
  return mined;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CUDA, m) { m.impl("mining_thresholds", by_name<&mining_thresholds>()); }

}  // namespace fastpixcon
