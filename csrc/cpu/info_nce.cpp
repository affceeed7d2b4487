// info_nce and its backward on CPU tensors: tiles of logits, never the matrix.
//
// Per step and pair of rows, in units of D multiply-adds: self contrast 1/2 forward and 3/2 backward (the triangle,
// one recomputed tile and two products); separate contrast 1 forward and 1 + one for each gradient backward.
#include "cpu/info_nce.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/checks.h"
#include "cpu/mean.h"
#include "cpu/steps.h"

namespace fastpixcon::cpu {
namespace {

using at::Tensor;
constexpr double kInf = std::numeric_limits<double>::infinity();

double dot_with_sum(const float* a, const double* b, int64_t D) {
  double sum = 0;
  for (int64_t k = 0; k < D; ++k) sum += a[k] * b[k];
  return sum;
}

// Of each anchor the dot product with the sum of the contrast rows of its class, [n]: as many sums at a time as are
// little beside the rows, of which classes may have one each.
std::vector<double> similarities(const Problem& p) {
  constexpr int64_t kClasses = 256;
  const SortedRows &a = p.anchors, &c = p.contrast();
  const std::vector<ClassRange>& range = p.classes.range;
  const int64_t D = c.operand.depth, K = static_cast<int64_t>(range.size());
  std::vector<double> out(a.n), sums;
  for (int64_t k0 = 0; k0 < K; k0 += kClasses) {
    const int64_t k1 = std::min(K, k0 + kClasses);
    sums.assign((k1 - k0) * D, 0.0);
    at::parallel_for(0, D, 16, [&](int64_t first, int64_t last) {
      for (int64_t j = range[k0].contrast_first; j < range[k1 - 1].contrast_last; ++j) {
        double* sum = sums.data() + (p.classes.of_contrast[j] - k0) * D;
        for (int64_t k = first; k < last; ++k) sum[k] += c.row(j)[k];
      }
    });
    at::parallel_for(range[k0].anchor_first, range[k1 - 1].anchor_last, 256, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i)
        out[i] = dot_with_sum(a.row(i), sums.data() + (p.classes.of_anchor[i] - k0) * D, D);
    });
  }
  return out;
}

std::tuple<Tensor, Tensor, Tensor> info_nce_backward(const InfoNCEBackward& call) {
  return info_nce_gradients(call, call.given.anchors.x.scalar_type());
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> info_nce(const InfoNCE& call) {
  check_info_nce(call);
  const Problem p(call);
  const SortedRows& a = p.anchors;
  const int64_t N = call.anchors.count(), n = a.n;
  const LogSums log_z = log_sums(p);

  // Unless there is more to know of positives, the mean of their logits is a dot product with the sum of the class.
  const bool one_by_one = p.of.softplus || p.rules.has_value();
  const Positives of = one_by_one ? positives(p, log_z).rows : Positives(0);
  const std::vector<double> with_class = one_by_one ? std::vector<double>() : similarities(p);

  const auto options = call.anchors.x.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous);
  Tensor loss = at::zeros({N}, options), weight = at::zeros({N}, options), log_sum = at::empty({N}, options);
  Tensor mass = at::zeros({N}, options);
  log_sum.fill_(-kInf);
  float *loss_out = loss.mutable_data_ptr<float>(), *weight_out = weight.mutable_data_ptr<float>(),
        *log_sum_out = log_sum.mutable_data_ptr<float>(), *mass_out = mass.mutable_data_ptr<float>();
  at::parallel_for(0, n, 256, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t to = a.source[i];
      const double of_all = p.rules.has_value() ? of.mass[i] : static_cast<double>(p.num_positives(i));
      log_sum_out[to] = static_cast<float>(log_z.rows[i]);
      mass_out[to] = static_cast<float>(of_all);
      if (!(of_all > 0)) continue;
      if (one_by_one) {
        if (log_z.rows[i] == -kInf && !std::isnan(of.loss[i])) continue;  // of an empty sum exactly nothing
        loss_out[to] = static_cast<float>(of.loss[i] / of_all);
        weight_out[to] = static_cast<float>(of.weight[i] / of_all);
      } else {
        double similarity = with_class[i];
        if (p.self) similarity -= dot(a.row(i), a.row(i), a.operand.depth);
        if (log_z.rows[i] == -kInf && !std::isnan(similarity)) continue;
        loss_out[to] = static_cast<float>(log_z.rows[i] - similarity * p.scale.inverse / of_all);
      }
    }
  });
  return {loss, log_sum, weight, mass};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> info_nce_mean(const InfoNCEMean& call) {
  check_info_nce_mean(call);
  auto [loss, log_sum, weight, mass] = info_nce(call.given);
  const AnchorWeights weights(call);
  const float *losses = loss.const_data_ptr<float>(), *masses = mass.const_data_ptr<float>();
  double total = 0, counted = 0;
  for (int64_t i = 0; i < loss.size(0); ++i)
    if (masses[i] > 0) total += weights.at(i) * losses[i], counted += weights.at(i);
  const double share = share_of(call, counted);
  return {scalar(total * share, loss), scalar(share, loss), log_sum, weight, mass};
}

std::tuple<Tensor, Tensor, Tensor> info_nce_gradients(const InfoNCEBackward& call, at::ScalarType dtype) {
  const auto& [statistics, given, wanted] = call;
  const Tensor& x = given.anchors.x;
  check_info_nce(given);
  check_statistics(x, statistics);
  Problem p(given);
  const bool wants_contrast = wanted[1] && !p.self;
  const Gradients d = gradients(p, statistics, nullptr, wanted[0], wants_contrast, wanted[2]);
  p.forget_operands();
  const Tensor nothing = at::empty({0}, x.options().dtype(dtype).memory_format(at::MemoryFormat::Contiguous));
  Tensor d_temperature = at::empty({}, given.rule.temperature.options());
  d_temperature.fill_(-d.along * d.scale * p.scale.inverse);
  const auto unsorted = [&](const SortedRows& set, const Rows& rows, const Tensor& of) {
    return unsort_gradient(set, rows.x, of.const_data_ptr<float>(), d.scale, dtype);
  };
  return {wanted[0] ? unsorted(p.anchors, given.anchors, d.rows) : nothing,
          wants_contrast ? unsorted(p.separate, *given.contrast, d.columns) : nothing.clone(), d_temperature};
}

TORCH_LIBRARY_IMPL(fastpixcon_native, CPU, m) {
  m.impl("info_nce", by_name<&info_nce>());
  m.impl("info_nce_mean", by_name<&info_nce_mean>());
  m.impl("info_nce_backward", by_name<&info_nce_backward>());
}

}  // namespace fastpixcon::cpu
