// memory_sums on the CPU: 4 N M D FLOP with the gradient of the anchors, which backward only scales.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cmath>
#include <limits>

#include "common/checks.h"
#include "cpu/contrast.h"
#include "cpu/memory.h"

namespace fastpixcon::cpu {
namespace {

using at::Tensor;
constexpr double kInf = std::numeric_limits<double>::infinity();

// Sums of a chunk of rows over a shard of the columns.
struct Partial {
  std::vector<double> sum;
  std::vector<float> max;
  std::unique_ptr<float[]> weighted;  // [rows][stride], rows of the bank times e^s; null: not wanted

  void begin(int64_t rows, const TileKernels& kernels, int64_t stride, bool wants_mean) {
    sum.assign(rows, 0.0);
    max.assign(rows, -std::numeric_limits<float>::infinity());
    if (wants_mean) weighted.reset(new float[round_up(rows, kernels.lanes) * stride]());
  }
};

void add_shard(const AnchorsAndBank& p, const Tasks& tasks, int64_t chunk, int64_t shard, bool wants_mean,
               Partial& out) {
  const int64_t first = tasks.first_row(chunk), last = tasks.last_row(chunk), block = p.kernels.block;
  const int64_t stride = p.anchors.operand.stride;
  out.begin(last - first, p.kernels, stride, wants_mean);
  std::unique_ptr<float[]> s(new float[kScratch]);
  float factor[kTile];
  p.for_tiles(first, last, tasks.shard(shard, {0, p.bank.size()}, block), s.get(),
              [&](TileView& tile, int64_t i0, const ColumnBlock& columns) {
                if (p.sums_have_all()) tile.positives = nullptr;  // nothing to leave out
                const int64_t at = i0 - first;
                const RunningSum rows{out.max.data() + at, out.sum.data() + at};
                if (!wants_mean)
                  return (p.scale.online ? p.kernels.sum_online : p.kernels.sum_fixed)(tile, rows, {nullptr, nullptr});
                float* weighted = out.weighted.get() + at * stride;
                const Operand& c = columns.operand;
                if (p.scale.online) {
                  p.kernels.weights_online(tile, rows, factor);
                  for (int64_t i = 0; i < tile.m; ++i)
                    for (int64_t k = 0; factor[i] != 1 && k < stride; ++k) weighted[i * stride + k] *= factor[i];
                } else {
                  if (p.kept.has_value() && p.kernels.add_few_weights(tile, rows, c, columns.first, weighted)) return;
                  p.kernels.weights_fixed(tile, rows);
                }
                Ahead ahead;
                p.kernels.add_rows(tile.s, tile.m, tile.n, c, columns.first, weighted, ahead);
              });
}

}  // namespace

std::tuple<Tensor, Tensor> memory_sums(const MemorySums& call) {
  check_memory(call.set);
  const AnchorsAndBank p(call.set);
  const Tensor& x = call.set.anchors.x;
  const bool wants_mean = call.wants_mean;
  const int64_t N = x.size(0), D = x.size(1), stride = p.anchors.operand.stride;
  const auto options = x.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous);
  Tensor log_sum = at::empty({N}, options), mean = wants_mean ? at::zeros({N, D}, options) : at::empty({0}, options);
  log_sum.fill_(-kInf);
  float *log_sum_out = log_sum.mutable_data_ptr<float>(), *mean_out = mean.mutable_data_ptr<float>();

  const Tasks tasks(p.anchors.n, p.kernels.block, p.kernels.lanes, wants_mean ? 4 * stride : 12);
  std::vector<Partial> partial(tasks.chunks * tasks.shards);
  each_by_a_thread(tasks.chunks * tasks.shards,
                   [&](int64_t t) { add_shard(p, tasks, t / tasks.shards, t % tasks.shards, wants_mean, partial[t]); });
  at::parallel_for(0, p.anchors.n, 16, [&](int64_t begin, int64_t end) {
    std::vector<double> total(D);
    for (int64_t i = begin; i < end; ++i) {  // the shards' sums, in order
      const int64_t at = i % tasks.chunk, to = p.anchors.source[i];
      const Partial* parts = partial.data() + i / tasks.chunk * tasks.shards;
      float max = -std::numeric_limits<float>::infinity();
      for (int64_t s = 0; s < tasks.shards; ++s) max = std::max(max, parts[s].max[at]);
      double sum = 0;
      std::fill(total.begin(), total.end(), 0.0);
      for (int64_t s = 0; s < tasks.shards; ++s) {
        const double factor = !p.scale.online ? 1 : parts[s].sum[at] > 0 ? std::exp(double{parts[s].max[at]} - max) : 0;
        sum += factor * parts[s].sum[at];
        for (int64_t k = 0; wants_mean && k < D; ++k) total[k] += factor * parts[s].weighted[at * stride + k];
      }
      if (sum == 0) continue;
      log_sum_out[to] = static_cast<float>(std::log(sum) + (p.scale.online ? max : p.scale.inverse));
      for (int64_t k = 0; wants_mean && k < D; ++k) mean_out[to * D + k] = static_cast<float>(total[k] / sum);
    }
  });
  return {log_sum, mean};
}

TORCH_LIBRARY_IMPL(fastpixcon_native, CPU, m) { m.impl("memory_sums", by_name<&memory_sums>()); }

}  // namespace fastpixcon::cpu
