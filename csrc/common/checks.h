// What memory safety needs when an operator is called directly, on any device; fastpixcon/ops/checks.py checks the
// rest.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <limits>
#include <optional>
#include <utility>

#include "common/operators.h"

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

inline void check_rows(const char* name, const Rows& rows) {
  const at::Tensor &x = rows.x, &labels = rows.labels;
  TORCH_CHECK_VALUE(x.dim() == 2 && x.size(1) > 0, name, ": got shape ", x.sizes(), ", want [rows, D > 0]");
  TORCH_CHECK_TYPE(x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kHalf,
                   name, ": got dtype ", x.scalar_type(), ", want float32, bfloat16 or float16");
  TORCH_CHECK_VALUE(labels.dim() == 1 && labels.size(0) == x.size(0), name, "' labels: got shape ", labels.sizes(),
                    ", want [", x.size(0), "]");
  TORCH_CHECK_TYPE(labels.scalar_type() == at::kInt || labels.scalar_type() == at::kLong, name, "' labels: got dtype ",
                   labels.scalar_type(), ", want int32 or int64");
  check_same_device("labels", labels, x);
  const auto check_each = [&](const char* what, const std::optional<at::Tensor>& of, at::ScalarType dtype) {
    if (!of.has_value()) return;
    check_sizes(what, *of, {x.size(0)});
    check_dtype(what, *of, dtype);
    check_same_device(what, *of, x);
  };
  check_each("positive_weights", rows.positive_weights, at::kFloat);
  check_each("negative_weights", rows.negative_weights, at::kFloat);
  check_each("groups", rows.groups, at::kInt);
  TORCH_CHECK_VALUE(rows.positive_weights.has_value() == rows.negative_weights.has_value(), name,
                    "' weights: got those of positives or of negatives, want both or neither");
}

// Below, 1 / temperature is no finite float; above, temperature.
constexpr double kTemperatureMin = 0x1p-126, kTemperatureMax = std::numeric_limits<float>::max();

inline void check_temperature(double temperature) {
  TORCH_CHECK_VALUE(temperature >= kTemperatureMin && temperature <= kTemperatureMax, "temperature: got ", temperature,
                    ", want a number > 0, from 2^-126 to ", kTemperatureMax);
}

inline void check_groups(const char* name, c10::string_view which) {
  TORCH_CHECK_VALUE(which == "any" || which == "same" || which == "other", name, ": got ", which,
                    ", want 'any', 'same' or 'other'");
}

inline void check_rule(const Rule& rule) {
  TORCH_CHECK_VALUE(rule.temperature.numel() == 1, "temperature: got shape ", rule.temperature.sizes(), ", want []");
  TORCH_CHECK_VALUE(rule.denominator == "negatives" || rule.denominator == "all" || rule.denominator == "decoupled",
                    "denominator: got ", rule.denominator, ", want 'negatives', 'all' or 'decoupled'");
  check_groups("positive_groups", rule.positive_groups);
  check_groups("negative_groups", rule.negative_groups);
  if (!rule.class_weights.has_value()) return;
  const at::Tensor& W = *rule.class_weights;
  check_dim("class_weights", W, 2);
  check_sizes("class_weights", W, {W.size(0), W.size(0)});
  check_dtype("class_weights", W, at::kFloat);
}

inline void check_sets(const Rows& anchors, const std::optional<Rows>& contrast, const Rule& rule) {
  check_rows("anchors", anchors);
  check_rule(rule);
  if (!contrast.has_value()) return;
  check_rows("contrast", *contrast);
  check_same_device("contrast", contrast->x, anchors.x);
  TORCH_CHECK_VALUE(contrast->x.size(1) == anchors.x.size(1), "contrast: got feature width ", contrast->x.size(1),
                    ", want ", anchors.x.size(1), ", the width of anchors");
}

inline void check_info_nce(const InfoNCE& call) {
  check_sets(call.anchors, call.contrast, call.rule);
  TORCH_CHECK_VALUE(call.rows == "raw" || call.rows == "unit" || call.rows == "any", "rows: got ", call.rows,
                    ", want 'raw', 'unit' or 'any'");
}

// Statistics of N anchors.
inline void check_statistic(const char* name, const at::Tensor& x, at::ScalarType dtype, int64_t N,
                            const at::Tensor& like) {
  check_sizes(name, x, {N});
  check_dtype(name, x, dtype);
  check_same_device(name, x, like);
}

inline void check_statistics(const at::Tensor& rows, const Statistics& of) {
  const int64_t N = rows.size(0);
  check_statistic("d_loss", of.d_loss, at::kFloat, N, rows);
  check_statistic("log_sum", of.log_sum, at::kFloat, N, rows);
  check_statistic("weight", of.weight, at::kFloat, N, rows);
  check_statistic("mass", of.mass, at::kFloat, N, rows);
}

inline void check_info_nce_mean(const InfoNCEMean& call) {
  check_info_nce(call.given);
  const at::Tensor& x = call.given.anchors.x;
  if (call.anchor_weights.has_value())
    check_statistic("anchor_weights", *call.anchor_weights, at::kFloat, x.size(0), x);
}

inline void check_pairs(const Pairs& pairs, const at::Tensor& anchors) {
  if (!pairs.mined.has_value()) return;
  check_sizes("mined", *pairs.mined, {4, anchors.size(0)});
  check_dtype("mined", *pairs.mined, at::kFloat);
  check_same_device("mined", *pairs.mined, anchors);
  TORCH_CHECK_VALUE(pairs.seed.has_value(), "seed: got None, want a [] int64 tensor with mined");
  check_dim("seed", *pairs.seed, 0);
  check_dtype("seed", *pairs.seed, at::kLong);
  check_same_device("seed", *pairs.seed, anchors);
}

// The steps over one contrast set of several.
inline void check_contrast(const ContrastSet& set, bool mutual) {
  check_sets(set.anchors, set.contrast, set.rule);
  if (set.contrast.has_value()) check_dtype("contrast", set.contrast->x, set.anchors.x.scalar_type());
  TORCH_CHECK_VALUE(set.contrast.has_value() || (!mutual && set.pairs.first_anchor() == 0),
                    "contrast: got None, want rows with mutual or diagonal");
  TORCH_CHECK_VALUE(!(mutual && set.pairs.mined.has_value()), "mined: got thresholds, want None with mutual");
  check_pairs(set.pairs, set.anchors.x);
}

inline void check_contrast_positives(const ContrastPositives& call) {
  const at::Tensor& on = call.set.anchors.x;
  check_contrast(call.set, call.mutual());
  check_statistic("log_sum", call.log_sum, at::kFloat, on.size(0), on);
  if (call.mutual())
    check_statistic("column_log_sum", *call.column_log_sum, at::kFloat, call.set.contrast->count(), on);
}

inline void check_contrast_gradient(const ContrastGradient& call) {
  check_contrast(call.set, call.mutual());
  check_statistics(call.set.anchors.x, call.statistics);
  if (call.mutual()) check_statistics(call.set.contrast->x, *call.columns);
}

inline void check_bank(const at::Tensor& anchors, const BankRows& of) {
  const at::Tensor &bank = of.x, &bank_labels = of.labels;
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
  if (!of.negative_weights.has_value()) return;
  check_sizes("bank_negative_weights", *of.negative_weights, {bank.size(0)});
  check_dtype("bank_negative_weights", *of.negative_weights, at::kFloat);
  check_same_device("bank_negative_weights", *of.negative_weights, anchors);
}

inline void check_memory(const MemorySet& set) {
  check_rows("anchors", set.anchors);
  check_bank(set.anchors.x, set.bank);
  check_rule(set.rule);
  check_pairs(set.pairs, set.anchors.x);
}

inline void check_memory_positives(const MemoryPositives& call) {
  const at::Tensor& on = call.set.anchors.x;
  check_memory(call.set);
  check_statistic("log_sum", call.log_sum, at::kFloat, on.size(0), on);
}

// memory: what call.memory() makes, if there is a bank.
inline void check_contrast_mean(const ContrastMean& call, const std::optional<MemorySet>& memory) {
  const at::Tensor& on = call.batch.anchors.x;
  TORCH_CHECK_VALUE(call.use_batch || call.bank.has_value(), "bank: got None, want a bank without use_batch");
  if (call.use_batch) check_contrast(call.batch, false);
  if (memory.has_value()) check_memory(*memory);
  if (call.taint.has_value()) check_statistic("taint", *call.taint, at::kFloat, on.size(0), on);
  if (call.anchor_weights.has_value())
    check_statistic("anchor_weights", *call.anchor_weights, at::kFloat, on.size(0), on);
  TORCH_CHECK_VALUE(call.reduction == "mean" || call.reduction == "sum" || call.reduction == "none", "reduction: got ",
                    call.reduction, ", want 'mean', 'sum' or 'none'");
}

inline void check_mining_thresholds(const MiningThresholds& call) {
  const at::Tensor& anchors = call.anchors.x;
  check_rows("anchors", call.anchors);
  TORCH_CHECK_VALUE(call.contrast.has_value() || call.bank.has_value(),
                    "contrast, bank: got neither, want one of them");
  if (call.contrast.has_value()) {
    const at::Tensor& contrast = call.contrast->x;
    check_rows("contrast", *call.contrast);
    check_dtype("contrast", contrast, anchors.scalar_type());
    check_same_device("contrast", contrast, anchors);
    check_sizes("contrast", contrast, {contrast.size(0), anchors.size(1)});
  }
  if (call.bank.has_value()) check_bank(anchors, *call.bank);
  check_groups("positive_groups", call.positive_groups);
  check_groups("negative_groups", call.negative_groups);
  for (c10::string_view kind : {call.negatives, call.positives})
    TORCH_CHECK_VALUE(kind == "none" || kind == "hardest" || kind == "semi-hard" || kind == "random",
                      "negatives, positives: got ", kind, ", want 'none', 'hardest', 'semi-hard' or 'random'");
  TORCH_CHECK_VALUE(call.fraction > 0 && call.fraction <= 1, "fraction: got ", call.fraction,
                    ", want a number in (0, 1]");
  TORCH_CHECK_VALUE(call.keep.size() == 2 && call.keep[0] > 0 && call.keep[1] > 0, "keep: got ", call.keep,
                    ", want two ints > 0");
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
