// The operator, for who selects anchors for a loss.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace fastpixcon {

// index [max_samples], label [max_samples], count [1], segments [2, K].
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> select_anchors(const at::Tensor& labels,
                                                                          const at::Tensor& predictions,
                                                                          const at::Tensor& seed, int64_t num_classes,
                                                                          int64_t max_samples, int64_t max_views,
                                                                          int64_t min_pixels, int64_t ignore_index);

}  // namespace fastpixcon
