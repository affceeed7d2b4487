// Pixels of a map as unit rows, for the host code of other operators.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace fastpixcon {

// Whether the channels of a pixel [B, D, h, w] lie closer together than its neighbours.
bool channels_are_close(const at::Tensor& map);

// The operator: rows [N, D] and inverse norms [N] of the pixels index [N], -1 for a row of zeros.
std::tuple<at::Tensor, at::Tensor> gather_normalize(const at::Tensor& embeddings, const at::Tensor& index);

}  // namespace fastpixcon
