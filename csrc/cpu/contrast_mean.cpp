// contrast_mean on CPU tensors: the steps over several contrast sets, and what they make of each anchor.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/checks.h"
#include "cpu/contrast.h"
#include "cpu/mean.h"

namespace fastpixcon::cpu {
namespace {

using at::Tensor;

constexpr float kInf = std::numeric_limits<float>::infinity();

const float* floats(const Tensor& x) { return x.defined() ? x.const_data_ptr<float>() : nullptr; }

// What a set makes of the anchors; tensors that are not defined: not wanted, or no such set.
struct OfSet {
  Tensor log_sum, mean, loss, weight, mass, pull;
};

// Sums of both sets.
struct Both {
  const float *batch, *memory;  // null: no such set

  float at(int64_t i) const {
    return batch == nullptr ? memory[i] : memory == nullptr ? batch[i] : batch[i] + memory[i];
  }
};

float log_add(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return a + b;
  const float largest = std::max(a, b);
  return std::isinf(largest) ? largest : largest + std::log1p(std::exp(std::min(a, b) - largest));
}

Tensor log_z(const OfSet& batch, const OfSet& bank) {
  if (!batch.log_sum.defined()) return bank.log_sum;
  if (!bank.log_sum.defined()) return batch.log_sum;
  Tensor both = at::empty_like(batch.log_sum);
  const float *a = floats(batch.log_sum), *b = floats(bank.log_sum);
  float* out = both.mutable_data_ptr<float>();
  for (int64_t i = 0; i < both.size(0); ++i) out[i] = log_add(a[i], b[i]);
  return both;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> contrast_mean(const ContrastMean& call) {
  const Tensor& x = call.batch.anchors.x;
  const int64_t N = x.size(0), D = x.size(1);
  const std::optional<MemorySet> memory = call.memory();
  check_contrast_mean(call, memory);
  OfSet batch, bank;
  if (call.use_batch) batch.log_sum = std::get<0>(contrast_sums(ContrastSums(call.batch, false)));
  if (memory.has_value()) std::tie(bank.log_sum, bank.mean) = memory_sums(MemorySums(*memory, call.wants_gradient));
  const Tensor log_sum = log_z(batch, bank);
  if (call.use_batch)
    std::tie(batch.loss, batch.weight, batch.mass, std::ignore, std::ignore, std::ignore) =
        contrast_positives(ContrastPositives(call.batch, log_sum, std::nullopt));
  if (memory.has_value())
    std::tie(bank.loss, bank.weight, bank.mass, bank.pull) =
        memory_positives(MemoryPositives(*memory, log_sum, call.wants_gradient));

  const bool wants_gradient = memory.has_value() && call.wants_gradient;
  Tensor loss = at::empty({N}, log_sum.options()), weight = at::empty({N}, log_sum.options());
  Tensor mass = at::empty({N}, log_sum.options());
  Tensor gradient = wants_gradient ? at::empty({N, D}, log_sum.options()) : at::empty({0}, log_sum.options());
  const Both losses{floats(batch.loss), floats(bank.loss)}, weights{floats(batch.weight), floats(bank.weight)};
  const Both masses{floats(batch.mass), floats(bank.mass)};
  const Tensor taint = call.taint.has_value() ? call.taint->contiguous() : Tensor();
  const Tensor anchor_weights = call.anchor_weights.has_value() ? call.anchor_weights->contiguous() : Tensor();
  const float *of_bank = floats(bank.log_sum), *of_all = floats(log_sum), *mean = floats(bank.mean);
  const float *pull = floats(bank.pull), *tainted = floats(taint), *w = floats(anchor_weights);
  float *loss_out = loss.mutable_data_ptr<float>(), *weight_out = weight.mutable_data_ptr<float>();
  float *mass_out = mass.mutable_data_ptr<float>(), *gradient_out = gradient.mutable_data_ptr<float>();
  const float over_temperature = 1 / call.batch.rule.temperature.item<float>();
  const bool negatives = call.batch.rule.negatives();
  at::parallel_for(0, N, 64, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const float total = masses.at(i), inverse = total > 0 ? 1 / total : 0;
      mass_out[i] = total;
      weight_out[i] = weights.at(i) * inverse;
      loss_out[i] = losses.at(i) * inverse + (tainted == nullptr ? 0 : tainted[i]);
      if (!wants_gradient) continue;
      const float share = of_bank[i] == -kInf ? 0 : std::exp(of_bank[i] - of_all[i]);
      const float push = negatives ? share * weight_out[i] : share;
      for (int64_t k = i * D; k < (i + 1) * D; ++k)
        gradient_out[k] = total > 0 ? (push * mean[k] - inverse * pull[k]) * over_temperature : 0;
    }
  });

  double sum = 0, counted = 0;
  for (int64_t i = 0; i < N; ++i) {
    const bool counts = mass_out[i] > 0;
    if (!counts && !std::isnan(loss_out[i])) continue;
    const double weighs = w == nullptr ? 1 : w[i];
    sum += weighs * loss_out[i];
    if (counts) counted += weighs;
    if (call.is_none()) loss_out[i] = static_cast<float>(call.scale * weighs * loss_out[i]);
  }
  const double share = call.is_mean() && counted > 0 ? call.scale / counted : call.scale;
  return {call.is_none() ? loss : scalar(sum * share, loss), scalar(share, loss), log_sum, weight, mass, gradient};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CPU, m) { m.impl("contrast_mean", by_name<&contrast_mean>()); }

}  // namespace fastpixcon::cpu
