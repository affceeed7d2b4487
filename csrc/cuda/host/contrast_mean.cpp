// contrast_mean on CUDA tensors: the steps over several contrast sets in one call, so that anchors are prepared once.
//
// FLOP: those of contrast_sums and contrast_positives, of memory_sums and memory_positives.
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/logaddexp.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "common/checks.h"
#include "cuda/contrast_join.h"
#include "cuda/host/contrast.h"
#include "cuda/host/tensors.h"
#include "cuda/mean_loss.h"

namespace fastpixcon {
namespace {

using at::Tensor;

// What a set makes of the anchors; tensors that are not defined: not wanted, or no such set.
struct OfSet {
  Tensor log_sum, mean, loss, weight, mass, pull;

  auto sums() const { return std::tuple(loss, weight, mass); }
};

std::optional<Tensor> contiguous(const std::optional<Tensor>& x) {
  return x.has_value() ? std::optional(x->contiguous()) : std::nullopt;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> contrast_mean(const ContrastMean& call) {
  const Tensor& x = call.batch.anchors.x;
  const Rule& rule = call.batch.rule;
  const c10::DeviceGuard guard(x.device());
  const std::optional<MemorySet> set = call.memory();
  check_contrast_mean(call, set);
  const int64_t N = x.size(0), D = x.size(1);
  std::optional<Problem> p;
  std::optional<Sweep> memory;
  OfSet batch, bank;
  if (call.use_batch) {
    p = problem_of(call.batch);
    batch.log_sum = log_sum_of(call.batch, *p, call.batch.pairs.diagonal);
  }
  if (set.has_value()) {
    memory = memory_sweep(*set, p.has_value() ? std::optional(p->a) : std::nullopt);
    std::tie(bank.log_sum, bank.mean) = sums_of(*memory, rule.fixed_shift, call.wants_gradient);
  }
  const Tensor log_sum = !memory.has_value() ? batch.log_sum
                         : !p.has_value()    ? bank.log_sum
                                             : at::logaddexp(batch.log_sum, bank.log_sum);
  if (p.has_value())
    std::tie(batch.loss, batch.weight, batch.mass, std::ignore) =
        positives_of(positives_sweep(call.batch, *p), log_sum, false);
  if (memory.has_value())
    std::tie(bank.loss, bank.weight, bank.mass, bank.pull) = positives_of(*memory, log_sum, call.wants_gradient);

  const auto options = log_sum.options();
  const Tensor loss = at::empty({N}, options), weight = at::empty({N}, options), mass = at::empty({N}, options);
  const bool wants_gradient = memory.has_value() && call.wants_gradient;
  std::optional<Tensor> gradient;
  if (wants_gradient) gradient = at::empty({N, D}, options);
  const std::optional<Tensor> none, weights = contiguous(call.anchor_weights);
  launch(contrast_join_kernel(), dim3(ceil_div<int64_t>(N, kJoinRows)), dim3(kJoinThreads), 0, batch.sums(),
         bank.sums(), std::tuple(bank.log_sum, bank.mean, bank.pull), log_sum, contiguous(call.taint),
         call.is_none() ? weights : none, rule.temperature, loss, weight, mass, gradient, N, D,
         call.is_none() ? call.scale : 1.0, rule.negatives());
  const Tensor found = wants_gradient ? *gradient : at::empty({0}, options);
  if (call.is_none()) return {loss, at::full({}, call.scale, options), log_sum, weight, mass, found};
  const Tensor value = at::empty({}, options), share = at::empty({}, options);
  launch(mean_loss_kernel(), dim3(1), dim3(kMeanThreads), 0, loss, mass, weights, value, share, N, call.scale,
         call.is_mean());
  return {value, share, log_sum, weight, mass, found};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CUDA, m) { m.impl("contrast_mean", by_name<&contrast_mean>()); }

}  // namespace fastpixcon
