// What memory safety needs when an operator is called directly, on any device; fastpixcon/ops/checks.py checks the
// rest.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <optional>

namespace fastpixcon {

inline void check_dim(const char* name, const at::Tensor& x, int64_t dim) {
  TORCH_CHECK_VALUE(x.dim() == dim, name, ": got shape ", x.sizes(), ", want ", dim, " dimensions");
}

inline void check_sizes(const char* name, const at::Tensor& x, at::IntArrayRef wanted) {
  TORCH_CHECK_VALUE(x.sizes() == wanted, name, ": got shape ", x.sizes(), ", want ", wanted);
}

inline void check_dtype(const char* name, const at::Tensor& x, at::ScalarType wanted) {
  TORCH_CHECK_TYPE(x.scalar_type() == wanted, name, ": got dtype ", x.scalar_type(), ", want ", wanted);
}

inline void check_same_device(const char* name, const at::Tensor& x, const at::Tensor& other) {
  TORCH_CHECK_VALUE(x.device() == other.device(), name, ": got a tensor on ", x.device(), ", want ", other.device());
}

inline void check_select_anchors(const at::Tensor& labels, const at::Tensor& predictions, const at::Tensor& seed,
                                 int64_t num_classes, int64_t max_samples, int64_t max_views) {
  check_dim("labels", labels, 3);
  TORCH_CHECK_VALUE(predictions.dim() == 3 || predictions.dim() == 4, "predictions: got shape ", predictions.sizes(),
                    ", want [B, h, w] or [B, K, h, w]");
  check_dim("seed", seed, 0);
  check_dtype("seed", seed, at::kLong);
  check_same_device("predictions", predictions, labels);
  check_same_device("seed", seed, labels);
  TORCH_CHECK_VALUE(predictions.size(0) == labels.size(0), "predictions: got ", predictions.size(0), " images, want ",
                    labels.size(0));
  TORCH_CHECK_VALUE(num_classes > 0 && num_classes < (int64_t{1} << 30), "num_classes: got ", num_classes,
                    ", want an int > 0 below 2^30");
  TORCH_CHECK_VALUE(predictions.dim() == 3 || predictions.size(1) == num_classes, "predictions: got logits of ",
                    predictions.size(1), " classes, want ", num_classes);
  TORCH_CHECK_VALUE(max_samples > 0, "max_samples: got ", max_samples, ", want an int > 0");
  TORCH_CHECK_VALUE(max_views > 0, "max_views: got ", max_views, ", want an int > 0");
  TORCH_CHECK_VALUE(predictions.size(-2) * predictions.size(-1) == 0 || labels.size(1) * labels.size(2) > 0,
                    "labels: got shape ", labels.sizes(), ", want at least one pixel an image");
}

inline void check_gather_normalize(const at::Tensor& embeddings, const at::Tensor& index) {
  check_dim("embeddings", embeddings, 4);
  check_dim("index", index, 1);
  check_dtype("index", index, at::kLong);
  check_same_device("index", index, embeddings);
}

inline void check_gather_normalize_backward(const at::Tensor& d_rows, const at::Tensor& rows,
                                            const at::Tensor& inv_norm, const at::Tensor& index, at::IntArrayRef size) {
  check_dim("index", index, 1);
  check_dtype("index", index, at::kLong);
  TORCH_CHECK_VALUE(size.size() == 4, "size: got ", size, ", want [B, D, h, w]");
  const int64_t N = index.size(0);
  check_sizes("rows", rows, {N, size[1]});
  check_sizes("d_rows", d_rows, {N, size[1]});
  check_sizes("inv_norm", inv_norm, {N});
  check_dtype("inv_norm", inv_norm, at::kFloat);
  for (const auto& x : {d_rows, inv_norm, index}) check_same_device("d_rows, inv_norm, index", x, rows);
}

inline void check_rows(const char* name, const at::Tensor& x, const at::Tensor& labels) {
  TORCH_CHECK_VALUE(x.dim() == 2 && x.size(1) > 0, name, ": got shape ", x.sizes(), ", want [rows, D > 0]");
  TORCH_CHECK_TYPE(x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kHalf,
                   name, ": got dtype ", x.scalar_type(), ", want float32, bfloat16 or float16");
  TORCH_CHECK_VALUE(labels.dim() == 1 && labels.size(0) == x.size(0), name, "' labels: got shape ", labels.sizes(),
                    ", want [", x.size(0), "]");
  TORCH_CHECK_TYPE(labels.scalar_type() == at::kInt || labels.scalar_type() == at::kLong, name, "' labels: got dtype ",
                   labels.scalar_type(), ", want int32 or int64");
  check_same_device("labels", labels, x);
}

inline void check_info_nce(const at::Tensor& anchors, const at::Tensor& anchor_labels,
                           const std::optional<at::Tensor>& contrast, const std::optional<at::Tensor>& contrast_labels,
                           const at::Tensor& temperature, c10::string_view denominator, c10::string_view rows) {
  check_rows("anchors", anchors, anchor_labels);
  TORCH_CHECK_VALUE(denominator == "negatives" || denominator == "all", "denominator: got ", denominator,
                    ", want 'negatives' or 'all'");
  TORCH_CHECK_VALUE(rows == "raw" || rows == "unit" || rows == "any", "rows: got ", rows,
                    ", want 'raw', 'unit' or 'any'");
  TORCH_CHECK_VALUE(temperature.numel() == 1, "temperature: got shape ", temperature.sizes(), ", want []");
  if (!contrast.has_value()) return;
  TORCH_CHECK_VALUE(contrast_labels.has_value(), "contrast_labels: got None, want the labels of contrast");
  check_rows("contrast", *contrast, *contrast_labels);
  check_same_device("contrast", *contrast, anchors);
  TORCH_CHECK_VALUE(contrast->size(1) == anchors.size(1), "contrast: got feature width ", contrast->size(1), ", want ",
                    anchors.size(1), ", the width of anchors");
}

}  // namespace fastpixcon
