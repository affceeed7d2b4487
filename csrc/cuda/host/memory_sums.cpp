// memory_sums and memory_positives on CUDA tensors. The bank is read where it lies, and copied only where its
// rows do not follow each other in multiples of 16 bytes; anchors are sorted by label.
//
// FLOP: 4 N M D for sums and means, 6 N M D for those without a fixed shift or of float16, 2 N M D without means; of
// positives 1 / classes of these. Memory beyond inputs and outputs: at most kMostPartialRows rows of float32.
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "common/checks.h"
#include "common/hash.h"
#include "cuda/host/sweep.h"
#include "cuda/info_nce.h"

namespace fastpixcon {
namespace {

using at::Tensor;

Sweep memory_sweep(const Tensor& anchors, const Tensor& anchor_labels, const Tensor& bank, const Tensor& bank_labels,
                   const Tensor& temperature, c10::string_view denominator, bool is_sorted, int64_t first_anchor,
                   const std::optional<Tensor>& mined, const std::optional<Tensor>& seed) {
  const int64_t D = bank.size(2);
  check_count("anchors", anchors.size(0));
  check_dtype("temperature", temperature, at::kFloat);
  check_same_device("temperature", temperature, anchors);
  TORCH_CHECK_VALUE(D <= kGradientMaxWidth, "anchors: got shape ", anchors.sizes(), ", want [rows, 1 to ",
                    kGradientMaxWidth, "]");
  Sweep sweep{anchors_of_bank(anchors, anchor_labels, bank.size(0), is_sorted), columns_of_bank(bank, bank_labels), D,
              temperature, denominator == "negatives"};
  sweep.mining = mining_of(mined, seed, sweep.anchors, first_anchor, kBankStream);
  return sweep;
}

std::tuple<Tensor, Tensor> memory_sums(const Tensor& anchors, const Tensor& anchor_labels, const Tensor& bank,
                                       const Tensor& bank_labels, const Tensor& temperature,
                                       c10::string_view denominator, bool fixed_shift, bool is_sorted,
                                       int64_t first_anchor, const std::optional<Tensor>& mined,
                                       const std::optional<Tensor>& seed, bool wants_mean) {
  check_memory_sums(anchors, anchor_labels, bank, bank_labels, temperature, denominator, mined, seed);
  const c10::DeviceGuard guard(anchors.device());
  const Sweep sweep = memory_sweep(anchors, anchor_labels, bank, bank_labels, temperature, denominator, is_sorted,
                                   first_anchor, mined, seed);
  return sums_of(sweep, fixed_shift, wants_mean);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> memory_positives(const Tensor& anchors, const Tensor& anchor_labels,
                                                            const Tensor& bank, const Tensor& bank_labels,
                                                            const Tensor& temperature, const Tensor& log_sum,
                                                            c10::string_view denominator, bool, bool is_sorted,
                                                            int64_t first_anchor, const std::optional<Tensor>& mined,
                                                            const std::optional<Tensor>& seed, bool wants_pull) {
  check_memory_positives(anchors, anchor_labels, bank, bank_labels, temperature, log_sum, denominator, mined, seed);
  const c10::DeviceGuard guard(anchors.device());
  const Sweep sweep = memory_sweep(anchors, anchor_labels, bank, bank_labels, temperature, denominator, is_sorted,
                                   first_anchor, mined, seed);
  return positives_of(sweep, log_sum, wants_pull);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CUDA, m) {
  m.impl("memory_sums", &memory_sums);
  m.impl("memory_positives", &memory_positives);
}

}  // namespace fastpixcon
