// What info_nce does with rows one by one, a warp a row: before the products of the forward, and around those of the
// backward.
#include "cuda/convert.cuh"
#include "cuda/device_check.cuh"
#include "cuda/halves.cuh"
#include "cuda/info_nce.h"
#include "cuda/math.cuh"
#include "cuda/normalize.cuh"
#include "cuda/sorted_labels.cuh"
#include "cuda/warp.cuh"

namespace fastpixcon {

constexpr float kLargestScaled = 4096;

template <typename scalar_t, typename out_t>
__global__ void __launch_bounds__(kRowwiseThreads)
    prepare_rows(const void* x_, const int32_t* labels, const int64_t* source, const int64_t* values,
                 const int64_t* classes, void* rows_, int32_t* row_labels, float* inv_norms, int N, int n_classes,
                 int D, int D_pad, int64_t stride_n, int64_t stride_d) {
  const int n = blockIdx.x * kRowwiseRows + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (n >= N) return;
  const int64_t from = source == nullptr ? n : source[n];
  const scalar_t* const x = static_cast<const scalar_t*>(x_) + from * stride_n;     // [D]
  out_t* const row = static_cast<out_t*>(rows_) + static_cast<int64_t>(n) * D_pad;  // [D_pad]

  if (row_labels == nullptr && labels[from] == -1) {
    for (int d = lane; d < D_pad; d += kWarp) store_number(row, d, 0);
    return;
  }

  float scale = 1, direction = 1;
  if (inv_norms != nullptr) {
    float largest = 0, sum = 0;
    for (int d = lane; d < D; d += kWarp) largest = fmaxf(largest, fabsf(to_float(x[d * stride_d])));
    scale = scale_of(warp_max(largest));
    for (int d = lane; d < D; d += kWarp) {
      const float scaled = to_float(x[d * stride_d]) * scale;
      sum = fmaf(scaled, scaled, sum);
    }
    direction = direction_of(warp_sum(sum), scale);
    if (lane == 0) inv_norms[n] = scale * direction;
  } else {  // one that is not finite is NaN altogether: an infinite logit may add nothing to a sum
    float nothing = 0;
    for (int d = lane; d < D; d += kWarp) nothing += to_float(x[d * stride_d]) * 0.0f;
    scale += warp_sum(nothing);
  }
  for (int d = lane; d < D_pad; d += kWarp) {
    const float value = d < D ? to_float(x[d * stride_d]) : 0;
    store_number(row, d, value * scale * direction);
  }

  if (row_labels == nullptr) return;
  int32_t label;
  if (values == nullptr) {
    label = labels[from];
  } else {
    const int64_t value = values[n];
    const int rank = count_less(n_classes, [&](int i) { return classes[i] < value; });
    const bool known = rank < n_classes && classes[rank] == value;
    label = value == INT64_MAX ? -1 : 2 * rank + known;
  }
  if (lane == 0) row_labels[n] = label;
}

__global__ void __launch_bounds__(kRowwiseThreads)
    info_nce_terms(const float* d_losses, const float* log_sums, const float* weights, const float* masses,
                   const int64_t* source, const float* largest, float* terms, int N, int64_t stride_d, bool negatives,
                   bool fixed) {
  const int n = blockIdx.x * kRowwiseThreads + threadIdx.x;
  if (n >= N) return;
  const int64_t from = source == nullptr ? n : source[n];
  const float log_sum = log_sums[from];
  const float mass = masses[from];
  const bool counts = mass > 0 && log_sum != -INFINITY;
  float d_loss = d_losses[from * stride_d];
  if (largest != nullptr) {  // float16 has no exponents for means over many anchors
    d_loss = *largest != 0 ? d_loss / *largest * kLargestScaled : 0;
  }
  const float inv_sum = fixed && counts ? exp2f(-log_sum * kLog2E) : 0;
  float weight = negatives ? d_loss * weights[from] : d_loss;
  if (fixed) weight *= inv_sum;
  terms[n] = counts ? weight : 0;
  terms[static_cast<int64_t>(N) + n] = counts ? d_loss / mass : 0;
  terms[2 * static_cast<int64_t>(N) + n] = fixed ? inv_sum : counts ? log_sum : INFINITY;
}

__global__ void __launch_bounds__(kRowwiseThreads)
    row_rules(const float* v, const float* u, const int32_t* groups, const int64_t* source, const int32_t* labels,
              float* weights, int32_t* sorted_groups, int N, int ring, int classes) {
  const int n = blockIdx.x * kRowwiseThreads + threadIdx.x;
  if (n >= N) return;
  const int64_t from = ring > 0 ? n / ring : source == nullptr ? n : source[n], size = N;
  const uint32_t key = key_of(labels[n]);
  FASTPIXCON_DEVICE_CHECK(classes == 0 || key == kLeftOut || key < static_cast<uint32_t>(classes),
                          "labels: not below the size of class_weights");
  const float positive = v == nullptr ? 1 : v[from], negative = u == nullptr ? 1 : u[from];
  weights[n] = positive, weights[size + n] = negative;
  weights[2 * size + n] = logf(positive), weights[3 * size + n] = logf(negative);
  if (groups != nullptr) sorted_groups[n] = groups[from];
}

template <typename scalar_t, typename out_t>
__global__ void __launch_bounds__(kRowwiseThreads)
    info_nce_project(const float* d_rows, const void* x_, const int64_t* source, const float* inv_norms, void* d_x_,
                     float* along, int N, int D, int D_pad, int splits) {
  const int n = blockIdx.x * kRowwiseRows + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (n >= N) return;
  const float* const d_row = d_rows + static_cast<int64_t>(n) * D_pad;  // [splits, .., D_pad]
  const scalar_t* const x = static_cast<const scalar_t*>(x_) + static_cast<int64_t>(n) * D_pad;
  const int64_t to = source == nullptr ? n : source[n];
  out_t* const d_x = static_cast<out_t*>(d_x_) + to * D;
  const auto gradient = [&](int d) {
    float sum = 0;
    for (int split = 0; split < splits; ++split) sum += d_row[static_cast<int64_t>(split) * N * D_pad + d];
    return sum;
  };

  float product = 0;
  if (along != nullptr || inv_norms != nullptr) {
    for (int d = lane; d < D; d += kWarp) {
      const float value = gradient(d);
      product += value == 0 ? 0 : value * load_number(x, d);  // a row left out may hold anything
    }
    product = warp_sum(product);
    if (along != nullptr && lane == 0) along[n] = product;
  }
  const float inv_norm = inv_norms == nullptr ? 1 : inv_norms[n];
  for (int d = lane; d < D; d += kWarp) {
    float value = gradient(d);
    if (inv_norms != nullptr && value != 0) value -= product * load_number(x, d);
    d_x[d] = from_float<out_t>(value * inv_norm);
  }
}

PrepareRowsKernel prepare_rows_kernel(Dtype dtype, Precision precision) {
  switch (precision) {
    case Precision::kBFloat16: return &prepare_rows<__nv_bfloat16, __nv_bfloat16>;
    case Precision::kHalf: return dtype == Dtype::kHalf ? &prepare_rows<__half, __half> : &prepare_rows<float, __half>;
    case Precision::kHalfx3: return &prepare_rows<float, Halves>;
    default: return &prepare_rows<float, float>;
  }
}

RowRulesKernel row_rules_kernel() { return &row_rules; }

InfoNCETermsKernel info_nce_terms_kernel() { return &info_nce_terms; }

InfoNCEProjectKernel info_nce_project_kernel(Precision precision, Dtype out) {
  switch (precision) {
    case Precision::kBFloat16:
      return out == Dtype::kBFloat16 ? &info_nce_project<__nv_bfloat16, __nv_bfloat16>
                                     : &info_nce_project<__nv_bfloat16, float>;
    case Precision::kHalf:
      return out == Dtype::kHalf ? &info_nce_project<__half, __half> : &info_nce_project<__half, float>;
    case Precision::kHalfx3: return &info_nce_project<Halves, float>;
    default: return &info_nce_project<float, float>;
  }
}

}  // namespace fastpixcon
