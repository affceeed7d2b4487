// Sums of e^x: as they are where |x| <= 40 (fixed shift), else relative to a running maximum.
#pragma once

#include "cuda/math.cuh"
#include "cuda/warp.cuh"

namespace fastpixcon {

constexpr float kNothing = -3.0e38f;         // the maximum of an empty sum: finite, so that differences to it are
constexpr float kNoLogit = 1.1f * kNothing;  // adds nothing

template <bool kFixed>
struct PartialSum;

template <>
struct PartialSum<true> {
  float total;

  __device__ static PartialSum empty() { return {0.0f}; }
  __device__ static PartialSum load(const float* totals, const float*, int64_t i) { return {totals[i]}; }
  __device__ void store(float* totals, float*, int64_t i) const { totals[i] = total; }
  __device__ void add(float e) { total += e; }
  __device__ void add(float e, float factor) { total = fmaf(e, factor, total); }
  __device__ void add(const PartialSum& other) { total += other.total; }
  __device__ PartialSum from_lane(int bits) const { return {__shfl_xor_sync(kAllLanes, total, bits)}; }
  __device__ float log() const { return log2f(total) * kLn2; }
};

template <>
struct PartialSum<false> {
  float total, largest;

  __device__ static PartialSum empty() { return {0.0f, kNothing}; }
  __device__ static PartialSum load(const float* totals, const float* maxima, int64_t i) {
    return {totals[i], maxima[i]};
  }
  __device__ void store(float* totals, float* maxima, int64_t i) const { totals[i] = total, maxima[i] = largest; }
  // One exponential, of what is not the larger.
  __device__ void add(float x) {
    const float beyond = x - largest, e = exp2_fast(-fabsf(beyond) * kLog2E);
    total = beyond > 0 ? fmaf(total, e, 1.0f) : total + e;
    largest = fmaxf(largest, x);
  }
  __device__ void add(float x, float logarithm) { add(x + logarithm); }
  __device__ void add(const PartialSum& other) {
    const float top = fmaxf(largest, other.largest);
    total = total * exp2_fast((largest - top) * kLog2E) + other.total * exp2_fast((other.largest - top) * kLog2E);
    largest = top;
  }
  __device__ PartialSum from_lane(int bits) const {
    return {__shfl_xor_sync(kAllLanes, total, bits), __shfl_xor_sync(kAllLanes, largest, bits)};
  }
  __device__ float log() const { return log2f(total) * kLn2 + largest; }
};

// A lane gives away half of 2 kHalf sums, to the lane that differs in `bit`, and adds what it gets to the other half.
template <int kHalf, typename Sum, int kCount>
__device__ void halve(Sum (&v)[kCount], int bit) {
  const bool upper = (threadIdx.x & bit) != 0;
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    const Sum low = v[i], high = v[i + kHalf];  // values, or the choice would be of addresses
    Sum given = low;
    if (!upper) given = high;
    v[i] = low;
    if (upper) v[i] = high;
    v[i].add(given.from_lane(bit));
  }
}

}  // namespace fastpixcon
