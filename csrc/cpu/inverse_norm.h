// What makes a row a unit row.
#pragma once

#include <cmath>
#include <limits>

namespace fastpixcon::cpu {

// 0 of a row without direction, which becomes zero and gets no gradient; NaN of one that is not finite: 1 / inf would
// make it zero, and a loss that overflowed would look fine.
inline double inverse_norm(double norm) {
  constexpr double kMinNorm = 1e-12;
  if (norm < kMinNorm) return 0;
  return std::isfinite(norm) ? 1 / norm : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace fastpixcon::cpu
