// Numbers of a row to float and back, in loops that compilers make vectors of for any instruction set.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <cstring>

namespace fastpixcon::cpu {

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// bfloat16 to the nearest, NaN one of its own.
inline uint16_t bf16_bits(float x) {
  const uint32_t bits = bits_of(x), rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

template <class scalar_t>
void to_floats(const scalar_t* x, int64_t D, float* to) {
  for (int64_t k = 0; k < D; ++k) to[k] = static_cast<float>(x[k]);
}
inline void to_floats(const c10::BFloat16* x, int64_t D, float* to) {
  for (int64_t k = 0; k < D; ++k) {
    const uint32_t bits = static_cast<uint32_t>(x[k].x) << 16;
    std::memcpy(to + k, &bits, sizeof bits);
  }
}

template <class scalar_t>
void from_floats(const float* x, int64_t D, scalar_t* to) {
  for (int64_t k = 0; k < D; ++k) to[k] = static_cast<scalar_t>(x[k]);
}
inline void from_floats(const float* x, int64_t D, c10::BFloat16* to) {
  for (int64_t k = 0; k < D; ++k) to[k].x = bf16_bits(x[k]);
}

inline void round_to_bf16(float* x, int64_t D) {
  for (int64_t k = 0; k < D; ++k) {
    const uint32_t bits = static_cast<uint32_t>(bf16_bits(x[k])) << 16;
    std::memcpy(x + k, &bits, sizeof bits);
  }
}

// In double, so that neither huge nor tiny rows overflow or vanish; eight sums, as additions wait for each other.
inline double dot_in_double(const float* x, const float* y, int64_t D) {
  double sums[8] = {}, sum = 0;
  for (int64_t k = 0; k + 8 <= D; k += 8)
    for (int64_t l = 0; l < 8; ++l) sums[l] += static_cast<double>(x[k + l]) * static_cast<double>(y[k + l]);
  for (int64_t k = D / 8 * 8; k < D; ++k) sums[k % 8] += static_cast<double>(x[k]) * static_cast<double>(y[k]);
  for (double part : sums) sum += part;
  return sum;
}

}  // namespace fastpixcon::cpu
