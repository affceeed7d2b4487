// info_nce and its backward, for whom else makes a loss of them.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "common/operators.h"

namespace fastpixcon::cpu {

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> info_nce(const InfoNCE& call);
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> info_nce_mean(const InfoNCEMean& call);
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> info_nce_at_once(const InfoNCEAtOnce& call);
// Gradients of rows in the dtype of these, or in float.
std::tuple<at::Tensor, at::Tensor, at::Tensor> info_nce_gradients(const InfoNCEBackward& call, at::ScalarType dtype);

}  // namespace fastpixcon::cpu
