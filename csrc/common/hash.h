// The one counter-based hash: the same numbers as hash32 in fastpixcon/reference/select_anchors.py, on every device.
#pragma once

#include <cstdint>

#if defined(__CUDACC__) || defined(__HIPCC__)
#define FASTPIXCON_HOST_DEVICE __host__ __device__
#else
#define FASTPIXCON_HOST_DEVICE
#endif

namespace fastpixcon {

// Draws of pixels use stream 0, all others one of their own: of whole segments, of pixels for the memory, of pairs with
// rows of the batch, with rows of the bank.
constexpr uint32_t kSegmentStream = 0x5E6D, kMemoryStream = 0x3E3D, kBatchStream = 0x6A7C, kBankStream = 0x6B4E;

// Bijective mixing of 32-bit words (Wellons' lowbias32).
FASTPIXCON_HOST_DEVICE constexpr uint32_t mix32(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}

// What all counters of a seed and stream share.
FASTPIXCON_HOST_DEVICE constexpr uint32_t hash_key(int64_t seed, uint32_t stream = 0) {
  const uint64_t s = static_cast<uint64_t>(seed);
  return mix32(static_cast<uint32_t>(s >> 32) ^ mix32(static_cast<uint32_t>(s) ^ stream));
}

// What all counters of equal upper words share; the hash of a counter is mix32(lower word ^ this).
FASTPIXCON_HOST_DEVICE constexpr uint32_t hash_upper(uint32_t key, int64_t counter) {
  return mix32(static_cast<uint32_t>(static_cast<uint64_t>(counter) >> 32) ^ key);
}

FASTPIXCON_HOST_DEVICE constexpr uint32_t hash32(uint32_t key, int64_t counter) {
  return mix32(static_cast<uint32_t>(counter) ^ hash_upper(key, counter));
}

}  // namespace fastpixcon
