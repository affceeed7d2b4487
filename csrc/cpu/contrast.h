// What the steps over one contrast set of several share.
#pragma once

#include <optional>

#include "cpu/steps.h"

namespace fastpixcon::cpu {

inline std::optional<Problem::Mining> mining_of(const std::optional<at::Tensor>& mined,
                                                const std::optional<at::Tensor>& seed,
                                                std::optional<int64_t> first_anchor) {
  if (!mined.has_value()) return std::nullopt;
  return Problem::Mining{*mined, seed->item<int64_t>(), first_anchor.value_or(0)};
}

}  // namespace fastpixcon::cpu
