// memory_positives on the CPU: anchors of a class against the ring of that class.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "common/checks.h"
#include "cpu/contrast.h"
#include "cpu/memory.h"

namespace fastpixcon::cpu {
namespace {

using at::Tensor;

// Sorted anchors of one class, at most a chunk of them, and a part of their ring.
struct Share {
  int64_t first, last;  // rows
  Columns columns;
  int64_t start;  // where tiles begin: a multiple of lanes, so rows before `first` are of another class
  std::vector<double> loss, weight, mass;
  std::unique_ptr<float[]> pull;  // [last - start][stride]; null: not wanted
};

std::vector<Share> shares(const AnchorsAndBank& p, bool wants_pull) {
  std::vector<Share> all;
  const int64_t n = p.anchors.n, lanes = p.kernels.lanes, block = p.kernels.block;
  int64_t classes = 0;
  for (int64_t i = 0; i < n; ++i) classes += i == 0 || p.anchors.label[i] != p.anchors.label[i - 1];
  for (int64_t i = 0, last; i < n; i = last) {
    for (last = i + 1; last < n && p.anchors.label[last] == p.anchors.label[i];) ++last;
    const Columns ring = p.bank.positives(p.anchors.label[i]);
    if (ring.first == ring.last) continue;
    Tasks tasks(last - i, block, lanes, wants_pull ? 4 * p.anchors.operand.stride : 24);
    tasks.shards = std::clamp<int64_t>((4 * at::get_num_threads() + classes - 1) / classes, 1, tasks.shards);
    for (int64_t c = 0; c < tasks.chunks; ++c)
      for (int64_t s = 0; s < tasks.shards; ++s) {
        const int64_t first = i + tasks.first_row(c);
        all.push_back(
            {first, i + tasks.last_row(c), tasks.shard(s, ring, block), first / lanes * lanes, {}, {}, {}, {}});
      }
  }
  return all;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> memory_positives(const MemoryPositives& call) {
  check_memory_positives(call);
  const AnchorsAndBank p(call.set);
  const Tensor &x = call.set.anchors.x, log_sum = call.log_sum.contiguous();
  const bool wants_pull = call.wants_pull;
  const int64_t N = x.size(0), D = x.size(1), n = p.anchors.n, stride = p.anchors.operand.stride;
  std::vector<float> log_sum_x(n + kOverhang, 0.0f);
  for (int64_t i = 0; i < n; ++i)
    log_sum_x[i] = p.scale.of_log_sum(log_sum.const_data_ptr<float>()[p.anchors.source[i]]);

  std::vector<Share> parts = shares(p, wants_pull);
  each_by_a_thread(static_cast<int64_t>(parts.size()), [&](int64_t t) {
    Share& part = parts[t];
    const int64_t rows = part.last - part.start;
    part.loss.assign(rows, 0.0);
    part.weight.assign(rows, 0.0);
    part.mass.assign(rows, 0.0);
    if (wants_pull) part.pull.reset(new float[round_up(rows, p.kernels.lanes) * stride]());
    std::unique_ptr<float[]> s(new float[kScratch]);
    p.for_tiles(part.start, part.last, part.columns, s.get(),
                [&](const TileView& tile, int64_t i0, const ColumnBlock& block) {
                  if (tile.positives == nullptr) return;
                  const int64_t at = i0 - part.start;
                  const PositiveSums sums{log_sum_x.data() + i0, part.loss.data() + at, part.weight.data() + at,
                                          part.mass.data() + at};
                  if (!wants_pull) return p.kernels.positives(tile, sums, {nullptr, nullptr, nullptr, nullptr});
                  p.kernels.pulls(tile, sums);
                  float* pull = part.pull.get() + at * stride;
                  const Operand& c = block.operand;
                  if (p.kept.has_value() && p.kernels.add_few_pulls(tile.s, tile.m, tile.n, c, block.first, pull))
                    return;
                  Ahead ahead;
                  p.kernels.add_rows(tile.s, tile.m, tile.n, c, block.first, pull, ahead);
                });
  });

  const auto options = x.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous);
  Tensor loss = at::zeros({N}, options), weight = at::zeros({N}, options), mass = at::zeros({N}, options);
  Tensor pull = wants_pull ? at::zeros({N, D}, options) : at::empty({0}, options);
  float *loss_out = loss.mutable_data_ptr<float>(), *weight_out = weight.mutable_data_ptr<float>(),
        *mass_out = mass.mutable_data_ptr<float>(), *pull_out = pull.mutable_data_ptr<float>();
  for (const Share& part : parts)
    for (int64_t i = part.first; i < part.last; ++i) {
      const int64_t to = p.anchors.source[i], at = i - part.start;
      loss_out[to] += static_cast<float>(part.loss[at]);
      weight_out[to] += static_cast<float>(part.weight[at]);
      mass_out[to] += static_cast<float>(part.mass[at]);
      for (int64_t k = 0; wants_pull && k < D; ++k) pull_out[to * D + k] += part.pull[at * stride + k];
    }
  return {loss, weight, mass, pull};
}

TORCH_LIBRARY_IMPL(fastpixcon_native, CPU, m) { m.impl("memory_positives", by_name<&memory_positives>()); }

}  // namespace fastpixcon::cpu
