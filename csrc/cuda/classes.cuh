// Classes of pixels: nearest labels, integer predictions, or the argmax of logits.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/convert.cuh"
#include "cuda/dtype.h"
#include "cuda/values.h"
#include "cuda/vector.cuh"

namespace fastpixcon {

__device__ inline int64_t load_integer(const void* data, int64_t at, int integer) {
  switch (static_cast<Integer>(integer)) {
    case Integer::kUInt8: return static_cast<const uint8_t*>(data)[at];
    case Integer::kInt8: return static_cast<const int8_t*>(data)[at];
    case Integer::kUInt16: return static_cast<const uint16_t*>(data)[at];
    case Integer::kInt16: return static_cast<const int16_t*>(data)[at];
    case Integer::kUInt32: return static_cast<const uint32_t*>(data)[at];
    case Integer::kInt32: return static_cast<const int32_t*>(data)[at];
    default: return static_cast<const int64_t*>(data)[at];
  }
}

__device__ inline int64_t load_label(const LabelMap& map, int64_t b, uint32_t y, uint32_t x) {
  return load_integer(map.labels, b * map.stride_b + y * map.stride_h + x * map.stride_w, map.integer);
}

// floor(i * from / to), mostly without a division of 64 bits.
__device__ inline uint32_t nearest(uint32_t i, uint32_t from, uint32_t to) {
  const uint64_t product = uint64_t{i} * from;
  return product >> 32 == 0 ? static_cast<uint32_t>(product) / to : static_cast<uint32_t>(product / to);
}

// A logit as what it is compared as.
__device__ inline double comparable(double x) { return x; }
template <typename scalar_t>
__device__ float comparable(scalar_t x) {
  return to_float(x);
}

// The lowest class of the largest logit, of classes that come in any order; NaN never wins.
template <typename scalar_t>
struct Argmax {
  using value_t = decltype(comparable(scalar_t{}));
  value_t best = -INFINITY;
  int winner = 0;

  __device__ void take_next(scalar_t logit, int k) {  // of ascending k
    const value_t value = comparable(logit);
    winner = value > best ? k : winner;
    best = value > best ? value : best;
  }
  __device__ void take(scalar_t logit, int k) {
    const value_t value = comparable(logit);
    const bool better = value > best || (value == best && k < winner);
    winner = better ? k : winner;
    best = better ? value : best;
  }
};

// Of kPixels neighbouring pixels whose logits of class k lie at logits + k * stride_k.
template <typename scalar_t, int kPixels>
__device__ void argmax(const scalar_t* logits, int64_t stride_k, int K, int (&winner)[kPixels]) {
  Argmax<scalar_t> of[kPixels];
#pragma unroll 4
  for (int k = 0; k < K; ++k) {
    scalar_t x[kPixels];
    load(logits + k * stride_k, x);
#pragma unroll
    for (int i = 0; i < kPixels; ++i) of[i].take_next(x[i], k);
  }
#pragma unroll
  for (int i = 0; i < kPixels; ++i) winner[i] = of[i].winner;
}

// Of the logits [K] of a pixel in shared memory, which lie K apart from the next lane's. Lanes whose logits begin in
// the same bank begin with different classes: those apart by what K leaves of the 32 banks.
template <typename scalar_t>
__device__ int argmax_shared(const scalar_t* logits, int K) {
  constexpr int kPerBank = sizeof(scalar_t) < 4 ? 4 / sizeof(scalar_t) : 1;
  const int banks = K / kPerBank, together = K % kPerBank == 0 ? min(banks & -banks, 32) : 1;
  int k = threadIdx.x % 32 * together / 32 * kPerBank;
  Argmax<scalar_t> of;
  for (int i = 0; i < K; ++i) {
    of.take(logits[k], k);
    k = k + 1 == K ? 0 : k + 1;
  }
  return of.winner;
}

}  // namespace fastpixcon
