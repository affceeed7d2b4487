// What memory safety needs when an operator is called directly, on any device; fastpixcon/ops/checks.py checks the
// rest.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <limits>
#include <optional>
#include <utility>

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
                                 int64_t num_classes, int64_t max_samples, int64_t max_views, int64_t min_pixels) {
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
  TORCH_CHECK_VALUE(min_pixels > 0, "min_pixels: got ", min_pixels, ", want an int > 0");
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

// Below, 1 / temperature is no finite float; above, temperature.
constexpr double kTemperatureMin = 0x1p-126, kTemperatureMax = std::numeric_limits<float>::max();

inline void check_temperature(double temperature) {
  TORCH_CHECK_VALUE(temperature >= kTemperatureMin && temperature <= kTemperatureMax, "temperature: got ", temperature,
                    ", want a number > 0, from 2^-126 to ", kTemperatureMax);
}

inline void check_temperature_and_denominator(const at::Tensor& temperature, c10::string_view denominator) {
  TORCH_CHECK_VALUE(temperature.numel() == 1, "temperature: got shape ", temperature.sizes(), ", want []");
  TORCH_CHECK_VALUE(denominator == "negatives" || denominator == "all", "denominator: got ", denominator,
                    ", want 'negatives' or 'all'");
}

inline void check_info_nce(const at::Tensor& anchors, const at::Tensor& anchor_labels,
                           const std::optional<at::Tensor>& contrast, const std::optional<at::Tensor>& contrast_labels,
                           const at::Tensor& temperature, c10::string_view denominator, c10::string_view rows) {
  check_rows("anchors", anchors, anchor_labels);
  check_temperature_and_denominator(temperature, denominator);
  TORCH_CHECK_VALUE(rows == "raw" || rows == "unit" || rows == "any", "rows: got ", rows,
                    ", want 'raw', 'unit' or 'any'");
  if (!contrast.has_value()) return;
  TORCH_CHECK_VALUE(contrast_labels.has_value(), "contrast_labels: got None, want the labels of contrast");
  check_rows("contrast", *contrast, *contrast_labels);
  check_same_device("contrast", *contrast, anchors);
  TORCH_CHECK_VALUE(contrast->size(1) == anchors.size(1), "contrast: got feature width ", contrast->size(1), ", want ",
                    anchors.size(1), ", the width of anchors");
}

// Statistics of N anchors.
inline void check_statistic(const char* name, const at::Tensor& x, at::ScalarType dtype, int64_t N,
                            const at::Tensor& like) {
  check_sizes(name, x, {N});
  check_dtype(name, x, dtype);
  check_same_device(name, x, like);
}

inline void check_statistics(const at::Tensor& rows, const at::Tensor& d_loss, const at::Tensor& log_sum,
                             const at::Tensor& weight, const at::Tensor& count) {
  const int64_t N = rows.size(0);
  check_statistic("d_loss", d_loss, at::kFloat, N, rows);
  check_statistic("log_sum", log_sum, at::kFloat, N, rows);
  check_statistic("weight", weight, at::kFloat, N, rows);
  check_statistic("num_positives", count, at::kInt, N, rows);
}

inline void check_mined(const std::optional<at::Tensor>& mined, const std::optional<at::Tensor>& seed,
                        const at::Tensor& anchors) {
  if (!mined.has_value()) return;
  check_sizes("mined", *mined, {4, anchors.size(0)});
  check_dtype("mined", *mined, at::kFloat);
  check_same_device("mined", *mined, anchors);
  TORCH_CHECK_VALUE(seed.has_value(), "seed: got None, want a [] int64 tensor with mined");
  check_dim("seed", *seed, 0);
  check_dtype("seed", *seed, at::kLong);
  check_same_device("seed", *seed, anchors);
}

// The steps over one contrast set of several.
inline void check_contrast(const at::Tensor& anchors, const at::Tensor& anchor_labels,
                           const std::optional<at::Tensor>& contrast, const std::optional<at::Tensor>& contrast_labels,
                           const at::Tensor& temperature, c10::string_view denominator, std::optional<int64_t> diagonal,
                           bool mutual, const std::optional<at::Tensor>& mined, const std::optional<at::Tensor>& seed) {
  check_info_nce(anchors, anchor_labels, contrast, contrast_labels, temperature, denominator, "unit");
  if (contrast.has_value()) check_dtype("contrast", *contrast, anchors.scalar_type());
  TORCH_CHECK_VALUE(contrast.has_value() || (!mutual && diagonal.value_or(0) == 0),
                    "contrast: got None, want rows with mutual or diagonal");
  TORCH_CHECK_VALUE(!(mutual && mined.has_value()), "mined: got thresholds, want None with mutual");
  check_mined(mined, seed, anchors);
}

inline void check_bank(const at::Tensor& anchors, const at::Tensor& bank, const at::Tensor& bank_labels) {
  check_dim("bank", bank, 3);
  check_dtype("bank", bank, anchors.scalar_type());
  check_same_device("bank", bank, anchors);
  TORCH_CHECK_VALUE(bank.size(2) == anchors.size(1), "bank: got ", bank.size(2), " features, want ", anchors.size(1),
                    " as in anchors");
  TORCH_CHECK_VALUE(bank.size(0) * bank.size(1) < (int64_t{1} << 31), "bank: got shape ", bank.sizes(),
                    ", want less than 2^31 rows");
  check_sizes("bank_labels", bank_labels, {bank.size(0), bank.size(1)});
  check_dtype("bank_labels", bank_labels, at::kInt);
  check_same_device("bank_labels", bank_labels, anchors);
}

inline void check_memory_sums(const at::Tensor& anchors, const at::Tensor& anchor_labels, const at::Tensor& bank,
                              const at::Tensor& bank_labels, const at::Tensor& temperature,
                              c10::string_view denominator, const std::optional<at::Tensor>& mined,
                              const std::optional<at::Tensor>& seed) {
  check_rows("anchors", anchors, anchor_labels);
  check_bank(anchors, bank, bank_labels);
  check_temperature_and_denominator(temperature, denominator);
  check_mined(mined, seed, anchors);
}

inline void check_memory_positives(const at::Tensor& anchors, const at::Tensor& anchor_labels, const at::Tensor& bank,
                                   const at::Tensor& bank_labels, const at::Tensor& temperature,
                                   const at::Tensor& log_sum, c10::string_view denominator,
                                   const std::optional<at::Tensor>& mined, const std::optional<at::Tensor>& seed) {
  check_memory_sums(anchors, anchor_labels, bank, bank_labels, temperature, denominator, mined, seed);
  check_statistic("log_sum", log_sum, at::kFloat, anchors.size(0), anchors);
}

inline void check_mining_thresholds(const at::Tensor& anchors, const at::Tensor& anchor_labels,
                                    const std::optional<at::Tensor>& contrast,
                                    const std::optional<at::Tensor>& contrast_labels,
                                    const std::optional<at::Tensor>& bank, const std::optional<at::Tensor>& bank_labels,
                                    c10::string_view negatives, c10::string_view positives, double fraction,
                                    at::IntArrayRef keep) {
  check_rows("anchors", anchors, anchor_labels);
  TORCH_CHECK_VALUE(contrast.has_value() || bank.has_value(), "contrast, bank: got neither, want one of them");
  if (contrast.has_value()) {
    TORCH_CHECK_VALUE(contrast_labels.has_value(), "contrast_labels: got None, want the labels of contrast");
    check_rows("contrast", *contrast, *contrast_labels);
    check_dtype("contrast", *contrast, anchors.scalar_type());
    check_same_device("contrast", *contrast, anchors);
    check_sizes("contrast", *contrast, {contrast->size(0), anchors.size(1)});
  }
  if (bank.has_value()) {
    TORCH_CHECK_VALUE(bank_labels.has_value(), "bank_labels: got None, want the labels of bank");
    check_bank(anchors, *bank, *bank_labels);
  }
  for (c10::string_view kind : {negatives, positives})
    TORCH_CHECK_VALUE(kind == "none" || kind == "hardest" || kind == "semi-hard" || kind == "random",
                      "negatives, positives: got ", kind, ", want 'none', 'hardest', 'semi-hard' or 'random'");
  TORCH_CHECK_VALUE(fraction > 0 && fraction <= 1, "fraction: got ", fraction, ", want a number in (0, 1]");
  TORCH_CHECK_VALUE(keep.size() == 2 && keep[0] > 0 && keep[1] > 0, "keep: got ", keep, ", want two ints > 0");
}

inline void check_memory_rows(const at::Tensor& embeddings, const at::Tensor& labels, const at::Tensor& seed,
                              int64_t num_classes, int64_t pixels_per_image) {
  check_dim("embeddings", embeddings, 4);
  check_dim("labels", labels, 3);
  check_dim("seed", seed, 0);
  check_dtype("seed", seed, at::kLong);
  check_same_device("labels", labels, embeddings);
  check_same_device("seed", seed, embeddings);
  TORCH_CHECK_VALUE(labels.size(0) == embeddings.size(0), "labels: got ", labels.size(0), " images, want ",
                    embeddings.size(0));
  TORCH_CHECK_VALUE(num_classes > 0 && num_classes < (int64_t{1} << 30), "num_classes: got ", num_classes,
                    ", want an int > 0 below 2^30");
  TORCH_CHECK_VALUE(pixels_per_image > 0, "pixels_per_image: got ", pixels_per_image, ", want an int > 0");
  TORCH_CHECK_VALUE(embeddings.size(2) * embeddings.size(3) == 0 || labels.size(1) * labels.size(2) > 0,
                    "labels: got shape ", labels.sizes(), ", want at least one pixel an image");
}

inline void check_memory_enqueue(const at::Tensor& bank, const at::Tensor& bank_labels, const at::Tensor& written,
                                 int64_t pixel_size, const at::Tensor& pixels, const at::Tensor& pixel_labels,
                                 const at::Tensor& regions, const at::Tensor& region_labels) {
  check_dim("bank", bank, 3);
  const int64_t K = bank.size(0), S = bank.size(1), D = bank.size(2);
  check_sizes("bank_labels", bank_labels, {K, S});
  check_dtype("bank_labels", bank_labels, at::kInt);
  check_sizes("written", written, {2, K});
  check_dtype("written", written, at::kLong);
  TORCH_CHECK_VALUE(pixel_size > 0 && pixel_size < S, "pixel_size: got ", pixel_size, ", want 1 to ", S - 1);
  for (const auto& [rows, labels] : {std::pair(pixels, pixel_labels), std::pair(regions, region_labels)}) {
    check_dim("pixels, regions", rows, 2);
    check_sizes("pixels, regions", rows, {rows.size(0), D});
    check_sizes("pixel_labels, region_labels", labels, {rows.size(0)});
    check_dtype("pixel_labels, region_labels", labels, at::kInt);
    check_same_device("pixels, regions", rows, bank);
    check_same_device("pixel_labels, region_labels", labels, bank);
  }
  check_same_device("bank_labels", bank_labels, bank);
  check_same_device("written", written, bank);
}

}  // namespace fastpixcon
