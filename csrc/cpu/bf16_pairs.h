// Words of two bfloat16: their dot products with float sums, and floats rounded to them. AVX512_BF16 instructions, or
// with FASTPIXCON_BF16_EMULATED software that tests can run on any processor. The instructions take denormals for zero.
#pragma once

#include <cstdint>

#include "cpu/vec.h"

#ifndef FASTPIXCON_BF16_EMULATED
#include <immintrin.h>
#endif

namespace fastpixcon::cpu {
namespace {

typedef uint32_t Pair __attribute__((may_alias));  // the first bfloat16 in the low half
typedef uint32_t PairVec __attribute__((vector_size(FASTPIXCON_VECTOR_BYTES), aligned(4), may_alias));

inline PairVec load_words(const Pair* p) { return *reinterpret_cast<const PairVec*>(p); }
inline void store_words(Pair* p, PairVec v) { *reinterpret_cast<PairVec*>(p) = v; }

#ifdef FASTPIXCON_BF16_EMULATED

inline Vec multiply_add(Vec sum, Pair a, PairVec b) {
  const PairVec x = a + PairVec{};
  sum += reinterpret_cast<Vec>(x << 16) * reinterpret_cast<Vec>(b << 16);
  return sum + reinterpret_cast<Vec>(x & 0xffff0000u) * reinterpret_cast<Vec>(b & 0xffff0000u);
}

// Rounded to nearest even, in the low half.
inline PairVec to_bf16(Vec x) {
  const PairVec bits = reinterpret_cast<PairVec>(x);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

// Pairs of lanes side by side: of `first`, then of `second`.
inline PairVec neighbour_pairs(Vec first, Vec second) {
  const PairVec low = to_bf16(first), high = to_bf16(second);
  PairVec out;
  for (int64_t l = 0; l < kWidth; l += 2) {
    out[l / 2] = low[l] | low[l + 1] << 16;
    out[(kWidth + l) / 2] = high[l] | high[l + 1] << 16;
  }
  return out;
}

// Pairs of a lane of `first` and the same lane of `second`.
inline PairVec lane_pairs(Vec first, Vec second) { return to_bf16(first) | to_bf16(second) << 16; }

#else

inline Vec multiply_add(Vec sum, Pair a, PairVec b) {
  return reinterpret_cast<Vec>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum),
                                                reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a))),
                                                reinterpret_cast<__m512bh>(b)));
}

inline PairVec neighbour_pairs(Vec first, Vec second) {
  return reinterpret_cast<PairVec>(
      _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(second), reinterpret_cast<__m512>(first)));
}

inline PairVec lane_pairs(Vec first, Vec second) {
  alignas(64) static constexpr uint16_t kInterleave[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                           21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                           11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return reinterpret_cast<PairVec>(_mm512_permutexvar_epi16(_mm512_load_si512(kInterleave),
                                                            reinterpret_cast<__m512i>(neighbour_pairs(first, second))));
}

#endif

}  // namespace
}  // namespace fastpixcon::cpu
