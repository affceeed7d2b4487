// Which pairs of an anchor and a contrast row count: those that mining keeps, and not an anchor with itself.
#pragma once

#include <cstdint>

#include "common/hash.h"

namespace fastpixcon {

// What an anchor keeps: of the array mining [5, N].
struct Kept {
  float least, most, negative_share, positive_share;
  uint32_t key;  // of the anchor's pairs in the hash

  __device__ static Kept load(const float* mining, int64_t N, int64_t i) {
    return {mining[i], mining[N + i], mining[2 * N + i], mining[3 * N + i], __float_as_uint(mining[4 * N + i])};
  }

  // number: of the contrast row in the hash.
  __device__ bool has(float cosine, bool same_class, uint32_t number) const {
    const float u = static_cast<float>(mix32(key ^ number) >> 8) * 0x1p-24f;
    return same_class ? (cosine <= most) & (u < positive_share) : (cosine >= least) & (u < negative_share);
  }
};

// Of a sorted row: where it stands in its input.
__device__ inline uint32_t number_of(const int64_t* source, int i) {
  return static_cast<uint32_t>(source == nullptr ? i : source[i]);
}

}  // namespace fastpixcon
