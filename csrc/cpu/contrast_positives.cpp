// contrast_positives on the CPU: the second step over one contrast set of several.
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "common/checks.h"
#include "cpu/contrast.h"
#include "cpu/steps.h"

namespace fastpixcon::cpu {
namespace {

using at::Tensor;

std::vector<double> sorted(const Tensor& log_sum_in, const SortedRows& set) {
  const Tensor log_sum = log_sum_in.contiguous();
  const float* from = log_sum.const_data_ptr<float>();
  std::vector<double> nats(set.n);
  for (int64_t i = 0; i < set.n; ++i) nats[i] = from[set.source[i]];
  return nats;
}

std::tuple<Tensor, Tensor, Tensor> unsorted(const Positives& of, const SortedRows& set, int64_t N, const Tensor& like) {
  const auto options = like.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous);
  Tensor loss = at::zeros({N}, options), weight = at::zeros({N}, options), mass = at::zeros({N}, options);
  float *to_loss = loss.mutable_data_ptr<float>(), *to_weight = weight.mutable_data_ptr<float>();
  float* to_mass = mass.mutable_data_ptr<float>();
  for (int64_t i = 0; i < static_cast<int64_t>(of.loss.size()); ++i) {
    const int64_t to = set.source[i];
    to_loss[to] = static_cast<float>(of.loss[i]);
    to_weight[to] = static_cast<float>(of.weight[i]);
    to_mass[to] = static_cast<float>(of.mass[i]);
  }
  return {loss, weight, mass};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> contrast_positives(const ContrastPositives& call) {
  check_contrast_positives(call);
  const Problem p(call.set, call.mutual());
  std::vector<double> columns;
  if (call.mutual()) columns = sorted(*call.column_log_sum, p.contrast());
  const PositivesOfBoth of = positives(p, {sorted(call.log_sum, p.anchors), columns});
  const Tensor& x = call.set.anchors.x;
  return std::tuple_cat(unsorted(of.rows, p.anchors, x.size(0), x),
                        unsorted(of.columns, p.contrast(), call.mutual() ? call.set.contrast->count() : 0, x));
}

TORCH_LIBRARY_IMPL(fastpixcon_native, CPU, m) { m.impl("contrast_positives", by_name<&contrast_positives>()); }

}  // namespace fastpixcon::cpu
