// Rows sorted by label, those left out (label -1) last: where a class begins, which tiles hold negatives only.
#pragma once

#include <cstdint>

#include "cuda/warp.cuh"

namespace fastpixcon {

constexpr uint32_t kLeftOut = 0xFFFFFFFF;

// Labels in an order in which -1, left out, is the last.
__device__ inline uint32_t key_of(int32_t label) { return static_cast<uint32_t>(label); }

// How many of n values, ascending as `less` has it, are less; all lanes of the warp take part, and look at 32 places
// together.
template <typename Less>
__device__ int count_less(int n, const Less& less) {
  const int lane = threadIdx.x % kWarp;
  int low = 0, high = n;
  while (low < high) {
    const int step = (high - low + kWarp - 1) / kWarp, at = low + step * (lane + 1) - 1;
    const int count = __popc(__ballot_sync(kAllLanes, at < high && less(at)));
    low += step * count;
    high = min(high, low + step - 1);
  }
  return low;
}

__device__ inline int count_less(const int32_t* labels, int n, uint32_t key) {
  return count_less(n, [&](int i) { return key_of(labels[i]) < key; });
}

// The keys of a block of sorted rows, and whether all its rows take part.
struct Block {
  uint32_t first, last;
  bool whole;

  // Rows begin.. of n rows of which the first `valid` take part.
  __device__ Block(const int32_t* labels, int begin, int size, int n, int valid)
      : first(key_of(labels[begin])), last(key_of(labels[min(begin + size, n) - 1])), whole(begin + size <= valid) {}

  __device__ bool single() const { return first == last; }  // class

  // No row of one has the class of a row of the other, and none is left out.
  __device__ bool all_negatives(const Block& other) const {
    return whole && other.whole && (last < other.first || other.last < first);
  }
};

}  // namespace fastpixcon
