// The operator, for who makes a loss of pixels.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "common/operators.h"

namespace fastpixcon {

// value [], mass [N], d_anchors, d_contrast, d_temperature.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> info_nce_at_once(const InfoNCEAtOnce& call);

}  // namespace fastpixcon
