// contrast_sums on the CPU: the first step over one contrast set of several.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <limits>

#include "common/checks.h"
#include "cpu/contrast.h"
#include "cpu/steps.h"

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

}  // namespace

std::tuple<Tensor, Tensor> contrast_sums(const ContrastSums& call) {
  const auto& [set, mutual] = call;
  check_contrast(set, mutual);
  const Problem p(set, mutual);
  const LogSums sums = log_sums(p);
  const Tensor& x = set.anchors.x;
  return {unsorted(sums.rows, p.anchors, x.size(0), x),
          unsorted(sums.columns, p.contrast(), p.mutual ? set.contrast->count() : 0, x)};
}

TORCH_LIBRARY_IMPL(fastpixcon_native, CPU, m) { m.impl("contrast_sums", by_name<&contrast_sums>()); }

}  // namespace fastpixcon::cpu
