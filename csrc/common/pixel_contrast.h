// pixel_contrast: three operators of a device, one after the other.
#pragma once

#include <optional>
#include <tuple>

#include "common/operators.h"

namespace fastpixcon {

struct PixelContrast {
  at::Tensor embeddings, labels, predictions, seed;
  int64_t num_classes, max_samples, max_views, min_pixels, ignore_index;
  Rule rule;
  double scale;
  bool learns_temperature;

  explicit PixelContrast(const Arguments& of)
      : embeddings(of.tensor("embeddings")),
        labels(of.tensor("labels")),
        predictions(of.tensor("predictions")),
        seed(of.tensor("seed")),
        num_classes(of.at("num_classes").toInt()),
        max_samples(of.at("max_samples").toInt()),
        max_views(of.at("max_views").toInt()),
        min_pixels(of.at("min_pixels").toInt()),
        ignore_index(of.at("ignore_index").toInt()),
        rule(of.rule()),
        scale(of.at("scale").toDouble()),
        learns_temperature(of.flag("learns_temperature")) {}
};

template <auto select_anchors, auto gather_normalize, auto info_nce_at_once>
auto pixel_contrast(const PixelContrast& of) {
  auto [index, label, count, segments] = select_anchors(of.labels, of.predictions, of.seed, of.num_classes,
                                                        of.max_samples, of.max_views, of.min_pixels, of.ignore_index);
  auto [rows, inv_norm] = gather_normalize(of.embeddings, index);
  const InfoNCEMean mean(InfoNCE({rows, label}, std::nullopt, of.rule, "unit"), std::nullopt, of.scale, true);
  auto [value, mass, d_rows, d_contrast, d_temperature] =
      info_nce_at_once(InfoNCEAtOnce(mean, {true, false, of.learns_temperature}));
  return std::tuple(value, mass, index, label, segments, rows, inv_norm, d_rows, d_temperature);
}

}  // namespace fastpixcon
