// What makes a row a unit row.
#pragma once

#include <cmath>
#include <limits>

namespace fastpixcon::cpu {

constexpr double kMinNorm = 1e-12;  // below it a row has no direction

// 0 without a direction; NaN for a row with a NaN or an infinity, which then shows in whatever is made of it.
inline double inverse_norm(double norm) {
  if (norm < kMinNorm) return 0;
  return std::isfinite(norm) ? 1 / norm : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace fastpixcon::cpu
