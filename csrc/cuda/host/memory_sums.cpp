// memory_sums and memory_positives on CUDA tensors. A bank of float32 is copied, cut into halves; another is read where
// it lies, and copied only where its rows do not follow each other in multiples of 16 bytes. Anchors are sorted by
// label.
//
// FLOP: 4 N M D for sums and means, 6 N M D for those without a fixed shift or of float16, 2 N M D without means; of
// positives 1 / classes of these. Memory beyond inputs and outputs: at most kMostPartialRows rows of float32, and of
// float32 as much as the bank, or half of it where TF32 is allowed.
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "common/checks.h"
#include "common/hash.h"
#include "cuda/host/contrast.h"
#include "cuda/info_nce.h"

namespace fastpixcon {

using at::Tensor;

Sweep memory_sweep(const MemorySet& set, const std::optional<Prepared>& like) {
  const int64_t D = set.bank.x.size(2);
  check_count("anchors", set.anchors.count());
  check_dtype("temperature", set.rule.temperature, at::kFloat);
  check_same_device("temperature", set.rule.temperature, set.anchors.x);
  TORCH_CHECK_VALUE(D <= kGradientMaxWidth, "anchors: got shape ", set.anchors.x.sizes(), ", want [rows, 1 to ",
                    kGradientMaxWidth, "]");
  const Ruling ruling(set.rule, set.bank.negative_weights.has_value());
  Sweep sweep{anchors_of_bank(set.anchors, set.bank.x.size(0), ruling, set.rule.is_sorted, like),
              columns_of_bank(set.bank, ruling), D, set.rule.temperature, denominator_of(set.rule)};
  sweep.ruling = ruling;
  sweep.mining = mining_of(set.pairs, sweep.anchors, kBankStream);
  return sweep;
}

namespace {

std::tuple<Tensor, Tensor> memory_sums(const MemorySums& call) {
  check_memory(call.set);
  const c10::DeviceGuard guard(call.set.anchors.x.device());
  return sums_of(memory_sweep(call.set), call.set.rule.fixed_shift, call.wants_mean);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> memory_positives(const MemoryPositives& call) {
  check_memory_positives(call);
  const c10::DeviceGuard guard(call.set.anchors.x.device());
  return positives_of(memory_sweep(call.set), call.log_sum, call.wants_pull);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CUDA, m) {
  m.impl("memory_sums", by_name<&memory_sums>());
  m.impl("memory_positives", by_name<&memory_positives>());
}

}  // namespace fastpixcon
