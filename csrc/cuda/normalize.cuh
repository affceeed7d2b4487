// How a row becomes a unit row: x * scale * direction, where neither huge nor tiny rows overflow or vanish.
#pragma once

namespace fastpixcon {

constexpr float kMinNorm = 1e-12f;  // below it a row has no direction: it is zero and gets no gradient

// A power of two that brings the largest of a row near 1.
__device__ inline float scale_of(float largest) {
  const int exponent = __float_as_int(largest) >> 23;
  return __int_as_float((254 - min(max(exponent, 27), 253)) << 23);  // 2^-126 to 2^100
}

// What makes a scaled row of that sum of squares a unit row.
__device__ inline float direction_of(float sum, float scale) {
  const float norm = sqrtf(sum);
  return norm >= kMinNorm * scale ? 1 / norm : 0;
}

}  // namespace fastpixcon
