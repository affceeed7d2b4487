// Which pairs of an anchor and a contrast row count: where those of its class are, and which mining keeps.
#pragma once

#include <cstdint>

#include "common/hash.h"
#include "cuda/sorted_labels.cuh"

namespace fastpixcon {

// What all warps see of the labels of a tile.
struct TileLabels {
  bool whole;            // every column counts
  uint32_t first, last;  // of those that count: the least and largest key; first > last if there is none

  __device__ TileLabels(const int32_t* labels, int columns, int valid) {
    bool all = true;
    first = kLeftOut, last = 0;
    for (int column = threadIdx.x % kWarp; column < columns; column += kWarp) {
      const uint32_t key = column < valid ? key_of(labels[column]) : kLeftOut;
      const bool counts = key != kLeftOut;
      all = all && counts;
      if (counts) first = min(first, key), last = max(last, key);
    }
    whole = __all_sync(kAllLanes, all);
    first = __reduce_min_sync(kAllLanes, first);
    last = __reduce_max_sync(kAllLanes, last);
  }
  __device__ bool empty() const { return first > last; }
};

// The columns [from, to) of the classes first to last, see ContrastKernel.
struct ColumnRange {
  int from, to;

  __device__ ColumnRange(const int32_t* labels, int M, int ring, uint32_t first, uint32_t last) {
    if (ring > 0) {
      const uint32_t classes = M / ring;
      from = static_cast<int>(min(first, classes)) * ring, to = static_cast<int>(min(last + 1, classes)) * ring;
    } else {
      from = count_less(labels, M, first), to = count_less(labels, M, last + 1);
    }
  }
};

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
