// The operator, for who makes a loss of pixels.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace fastpixcon::cpu {

// Rows [N, D] and inverse norms [N] of the pixels index [N], -1 for a row of zeros.
std::tuple<at::Tensor, at::Tensor> gather_normalize(const at::Tensor& embeddings, const at::Tensor& index);

}  // namespace fastpixcon::cpu
