// mining_thresholds on the CPU: cosines are counted in bins, tile by tile; a chunk of anchors at a time.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <limits>

#include "common/checks.h"
#include "cpu/memory.h"

namespace fastpixcon::cpu {
namespace {

using at::Tensor;
constexpr float kInf = std::numeric_limits<float>::infinity();

// The least cosine of the pairs that are kept, from counts of them beginning with the hardest; and their share.
// edge(b): what the hardest b bins and one have in common.
template <class CountOf, class Edge>
std::pair<float, float> threshold(c10::string_view kind, double fraction, int64_t keep, const CountOf& count_of,
                                  float everything, float nothing, const Edge& edge) {
  if (kind == "none") return {everything, 1.0f};
  int64_t n = 0;
  for (int64_t b = 0; b < kBins; ++b) n += count_of(b);
  const auto share = [&](int64_t pool) {
    return static_cast<float>(std::min(1.0, static_cast<double>(keep) / std::max<int64_t>(pool, 1)));
  };
  if (kind == "random") return {everything, share(n)};
  const int64_t wanted =
      kind == "hardest" ? std::min(keep, n) : static_cast<int64_t>(std::ceil(static_cast<double>(n) * fraction));
  if (wanted == 0) return {nothing, kind == "hardest" ? 1.0f : share(0)};
  int64_t pool = 0, b = 0;
  for (;; ++b) {
    pool += count_of(b);
    if (pool >= wanted) break;
  }
  return {b == kBins - 1 ? everything : edge(b), kind == "hardest" ? 1.0f : share(pool)};
}

Tensor mining_thresholds(const MiningThresholds& call) {
  check_mining_thresholds(call);
  const auto [negatives, positives, fraction] = std::tuple(call.negatives, call.positives, call.fraction);
  const std::vector<int64_t>& keep = call.keep;
  const Tensor& x = call.anchors.x;
  const TileKernels& kernels = tile_kernels(x.scalar_type());
  SortedRows anchors = sort_rows(call.anchors, false, kernels);
  anchors.pack(Part::kLeft, kernels);
  std::optional<SortedRows> batch;
  std::vector<int32_t> itself;  // [n] an anchor's own place among the sorted rows of the batch
  if (call.contrast.has_value()) {
    batch = sort_rows(*call.contrast, false, kernels);
    batch->pack(Part::kRight, kernels);
    if (call.diagonal.has_value()) itself = places(anchors, *batch, call.contrast->count(), *call.diagonal);
  }
  const auto rules = [&](const std::optional<Rows>& contrast) {
    return group_rules(call.positive_groups, call.negative_groups, call.anchors, anchors, contrast, batch);
  };
  const std::optional<PairRules> of_batch = rules(call.contrast), of_bank = rules(std::nullopt);
  std::optional<BankColumns> bank;
  if (call.bank.has_value()) bank.emplace(*call.bank, kernels);

  const int64_t N = x.size(0), n = anchors.n;
  Tensor mined = at::empty({4, N}, x.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous));
  float* out = mined.mutable_data_ptr<float>();
  const auto none = [](int64_t) { return int64_t{0}; };  // what anchors left out have
  const auto [least, negative_share] = threshold(negatives, fraction, keep[1], none, -kInf, kInf, none);
  const auto [most, positive_share] = threshold(positives, fraction, keep[0], none, kInf, -kInf, none);
  for (int64_t i = 0; i < N; ++i) {
    out[i] = least, out[N + i] = most;
    out[2 * N + i] = negative_share, out[3 * N + i] = positive_share;
  }
  Tasks tasks(n, kernels.block, kernels.lanes, 4 * kCounts);
  const auto view = [&](int64_t, int64_t m, int64_t columns, const Range* positives, const int32_t* own, float* s) {
    return TileView{s, m, columns, positives, Denominator{false, false}, own, 1, 0, 1};
  };
  // A round has a chunk for every thread, or shards of few chunks.
  const int64_t threads = at::get_num_threads();
  const int64_t together = std::min(tasks.chunks, threads);
  tasks.shards = together == 0 ? 1 : (threads + together - 1) / together;
  for (int64_t round = 0; round < tasks.chunks; round += together) {
    const int64_t chunks = std::min(together, tasks.chunks - round);
    std::vector<std::vector<int32_t>> counts(chunks * tasks.shards);
    each_by_a_thread(chunks * tasks.shards, [&](int64_t t) {
      const int64_t chunk = round + t / tasks.shards, shard = t % tasks.shards;
      const int64_t first = tasks.first_row(chunk), last = tasks.last_row(chunk);
      counts[t].assign((last - first) * kCounts, 0);
      std::unique_ptr<float[]> s(new float[kScratch]);
      const auto count = [&](const TileView& tile, int64_t i0, const ColumnBlock&) {
        kernels.count_cosines(tile, counts[t].data() + (i0 - first) * kCounts);
      };
      if (batch.has_value())
        for_tiles_of(kernels, anchors, SortedColumns(*batch), first, last,
                     tasks.shard(shard, {0, batch->n}, kernels.block), itself.empty() ? nullptr : itself.data(),
                     of_batch.has_value() ? &*of_batch : nullptr, s.get(), view, count);
      if (bank.has_value())
        for_tiles_of(kernels, anchors, *bank, first, last, tasks.shard(shard, {0, bank->size()}, kernels.block),
                     nullptr, of_bank.has_value() ? &*of_bank : nullptr, s.get(), view, count);
    });
    const int64_t first = tasks.first_row(round), last = tasks.last_row(round + chunks - 1);
    at::parallel_for(first, last, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t at = i % tasks.chunk, to = anchors.source[i];
        const auto* of_chunk = counts.data() + (i / tasks.chunk - round) * tasks.shards;
        const auto total = [&](int64_t bin) {
          int64_t sum = 0;
          for (int64_t s = 0; s < tasks.shards; ++s) sum += of_chunk[s][at * kCounts + bin];
          return sum;
        };
        const auto edge = [](int64_t b) { return static_cast<float>(2.0 * b / kBins - 1); };
        std::tie(out[to], out[2 * N + to]) = threshold(
            negatives, fraction, keep[1], [&](int64_t b) { return total(kBins - 1 - b); }, -kInf, kInf,
            [&](int64_t b) { return edge(kBins - 1 - b); });
        std::tie(out[N + to], out[3 * N + to]) = threshold(
            positives, fraction, keep[0], [&](int64_t b) { return total(kBins + b); }, kInf, -kInf,
            [&](int64_t b) { return edge(b + 1); });
      }
    });
  }
  return mined;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CPU, m) { m.impl("mining_thresholds", by_name<&mining_thresholds>()); }

}  // namespace fastpixcon::cpu
