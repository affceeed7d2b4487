// contrast_sums on the CPU: the first step over one contrast set of several.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <limits>

#include "common/checks.h"
#include "cpu/contrast.h"

namespace fastpixcon::cpu {
namespace {

using at::Tensor;

// In the order of the input, -inf for rows left out.
Tensor unsorted(const std::vector<double>& nats, const SortedRows& set, int64_t N, const Tensor& like) {
  Tensor out = at::empty({N}, like.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous));
  out.fill_(-std::numeric_limits<double>::infinity());
  float* to = out.mutable_data_ptr<float>();
  for (size_t i = 0; i < nats.size(); ++i) to[set.source[i]] = static_cast<float>(nats[i]);
  return out;
}

std::tuple<Tensor, Tensor> contrast_sums(const Tensor& anchors, const Tensor& anchor_labels,
                                         const std::optional<Tensor>& contrast,
                                         const std::optional<Tensor>& contrast_labels, const Tensor& temperature,
                                         c10::string_view denominator, bool, bool, std::optional<int64_t> diagonal,
                                         bool mutual, const std::optional<Tensor>& mined,
                                         const std::optional<Tensor>& seed) {
  check_contrast(anchors, anchor_labels, contrast, contrast_labels, temperature, denominator, diagonal, mutual, mined,
                 seed);
  const Problem p(anchors, anchor_labels, contrast, contrast_labels, temperature, denominator, "unit", mutual, diagonal,
                  mining_of(mined, seed, diagonal));
  const LogSums sums = log_sums(p);
  return {unsorted(sums.rows, p.anchors, anchors.size(0), anchors),
          unsorted(sums.columns, p.contrast(), p.mutual ? contrast->size(0) : 0, anchors)};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CPU, m) { m.impl("contrast_sums", contrast_sums); }

}  // namespace fastpixcon::cpu
