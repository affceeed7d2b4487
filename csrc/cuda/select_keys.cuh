// The smallest keys of groups, by radix selection in a block: 8 bits a pass.
#pragma once

#include <cstdint>

#include "cuda/warp.cuh"

namespace fastpixcon {

template <int kGroups>
struct KeySelection {
  int histogram[kGroups][256];
  uint32_t key[kGroups];
  int wanted[kGroups];
};

// One warp: the bin in which the wanted-th key lies becomes the next 8 bits of the group's key.
template <int kGroups>
__device__ void narrow(KeySelection<kGroups>& s, int group, int shift) {
  constexpr int kBins = 256 / kWarp;  // of a lane
  const int lane = threadIdx.x % kWarp;
  const int* bins = s.histogram[group] + lane * kBins;
  int mine = 0;
#pragma unroll
  for (int i = 0; i < kBins; ++i) mine += bins[(i + lane / 4) % kBins];  // in 32 banks
  int wanted = s.wanted[group] - (warp_inclusive_sum(mine) - mine);
  __syncwarp();
  if (wanted <= 0 || wanted > mine) return;  // it lies in the bins of another lane
  for (int i = 0; i < kBins; ++i) {
    if (wanted <= bins[i]) {
      s.key[group] |= static_cast<uint32_t>(lane * kBins + i) << shift;
      s.wanted[group] = wanted;
      return;
    }
    wanted -= bins[i];
  }
}

// s.key[group] becomes the key up to which there are wanted[group] keys, of which there must be as many; where 0 are
// wanted it means nothing. visit(use) calls use(group, key) with all keys, each on some thread. Ends with a barrier.
template <int kGroups, int kThreads, typename Visit>
__device__ void select_keys(KeySelection<kGroups>& s, const int (&wanted)[kGroups], const Visit& visit) {
  static_assert(kThreads >= kGroups * kWarp, "a warp a group");
  if (threadIdx.x == 0) {
    for (int group = 0; group < kGroups; ++group) {
      s.key[group] = 0;
      s.wanted[group] = wanted[group];
    }
  }
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < kGroups * 256; i += kThreads) s.histogram[i / 256][i % 256] = 0;
    __syncthreads();
    visit([&](int group, uint32_t key) {
      const uint32_t known = shift == 24 ? 0 : (key ^ s.key[group]) >> (shift + 8);
      if (known == 0) atomicAdd(&s.histogram[group][key >> shift & 255], 1);
    });
    __syncthreads();
    if (threadIdx.x / kWarp < kGroups) narrow(s, threadIdx.x / kWarp, shift);
    __syncthreads();
  }
}

}  // namespace fastpixcon
