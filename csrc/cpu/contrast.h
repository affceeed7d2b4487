// The steps over several contrast sets, as operators and for contrast_mean.
#pragma once

#include <tuple>

#include "common/operators.h"

namespace fastpixcon::cpu {

std::tuple<at::Tensor, at::Tensor> contrast_sums(const ContrastSums& call);
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> contrast_positives(
    const ContrastPositives& call);
std::tuple<at::Tensor, at::Tensor> memory_sums(const MemorySums& call);
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> memory_positives(const MemoryPositives& call);

}  // namespace fastpixcon::cpu
