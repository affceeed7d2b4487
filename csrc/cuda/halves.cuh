// Float32 numbers as two float16 ones, which tensor cores multiply (Ootomo and Yokota, 2022): the nearest, and what is
// left, times 2^11. Together they have 22 bits from 2^-15 on, and are off by 2^-37 below; beyond 65,504 there are none.
// Of a product x y = high high + 2^-11 (high low + low high) the rest, low low, is below 2^-22 of it.
//
// A row of them has as many bytes as one of float32: of every 32 numbers, which are a panel, all the high halves, then
// all the low ones.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/convert.cuh"

namespace fastpixcon {

constexpr float kLowScale = 0x1p11f, kLowUnit = 0x1p-11f;
constexpr int kHalvesTogether = 32;

// What numbers up to `largest` in magnitude, whatever it is, are cut in units of: a power of two, of which they are
// below 2^15, so that those above 2^-29 of the largest keep 22 bits. And its inverse; both are normal numbers.
__device__ inline float unit_of(float largest) {
  constexpr uint32_t kExponent = 0xFFu << 23;
  return __uint_as_float((__float_as_uint(fmaxf(largest, 0x1p-112f)) & kExponent) - (14u << 23));
}
__device__ inline float inverse_of_power(float unit) {
  return __uint_as_float(__float_as_uint(0x1p127f) - __float_as_uint(unit));
}

// Of the type of the numbers of such a row, as those of other rows are of float; not where a number is.
struct Halves {
  __half parts[2];
};

// Of two numbers side by side.
__device__ inline void split(float first, float second, __half2& high, __half2& low) {
  high = __floats2half2_rn(first, second);
  const float2 of = __half22float2(high);
  low = __floats2half2_rn((first - of.x) * kLowScale, (second - of.y) * kLowScale);
}

// Number d of a row.
template <typename T>
__device__ float load_number(const T* row, int d) {
  return to_float(row[d]);
}
template <>
__device__ inline float load_number(const Halves* row, int d) {
  const __half* const at = row[d / kHalvesTogether * kHalvesTogether].parts + d % kHalvesTogether;
  return fmaf(__half2float(at[kHalvesTogether]), kLowUnit, __half2float(at[0]));
}

template <typename T>
__device__ void store_number(T* row, int d, float x) {
  row[d] = from_float<T>(x);
}
template <>
__device__ inline void store_number(Halves* row, int d, float x) {
  __half* const at = row[d / kHalvesTogether * kHalvesTogether].parts + d % kHalvesTogether;
  const __half high = __float2half_rn(x);
  at[0] = high, at[kHalvesTogether] = __float2half_rn((x - __half2float(high)) * kLowScale);
}

}  // namespace fastpixcon
