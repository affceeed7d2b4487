// One vector of floats, in compiler vector extensions, so that one source serves every instruction set.
// FASTPIXCON_VECTOR_BYTES says how wide; everything is in an unnamed namespace and calls nothing outside, so
// no function compiled for one instruction set can be linked into another.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastpixcon::cpu {
namespace {

typedef float Vec __attribute__((vector_size(FASTPIXCON_VECTOR_BYTES), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(FASTPIXCON_VECTOR_BYTES), aligned(4), may_alias));
typedef uint32_t WordVec __attribute__((vector_size(FASTPIXCON_VECTOR_BYTES), aligned(4), may_alias));
constexpr int64_t kWidth = FASTPIXCON_VECTOR_BYTES / 4;

inline Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
inline Vec splat(float x) { return x - Vec{}; }
inline Vec maximum(Vec a, Vec b) { return a > b ? a : b; }  // b if either is NaN
inline Vec absolute(Vec a) { return reinterpret_cast<Vec>(reinterpret_cast<IntVec>(a) & 0x7fffffff); }

inline IntVec lane_index() {
  IntVec index;
  for (int64_t l = 0; l < kWidth; ++l) index[l] = static_cast<int32_t>(l);
  return index;
}

// Lanes lo <= l < hi.
inline IntVec lanes_between(int64_t lo, int64_t hi) {
  const IntVec index = lane_index();
  return (index >= static_cast<int32_t>(lo)) & (index < static_cast<int32_t>(hi));
}

inline Vec select(IntVec mask, Vec yes, Vec no) { return mask ? yes : no; }

inline IntVec load_ints(const int32_t* p) { return *reinterpret_cast<const IntVec*>(p); }
inline void store_ints(int32_t* p, IntVec v) { *reinterpret_cast<IntVec*>(p) = v; }
inline WordVec load_keys(const uint32_t* p) { return *reinterpret_cast<const WordVec*>(p); }

// Bit l: lane l of a mask is set.
inline uint32_t lane_bits(IntVec mask) {
#if defined(FASTPIXCON_AVX512_MASKS)  // compilers define no macros for a pragma's target
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask));
#elif defined(FASTPIXCON_AVX2_MASKS)
  return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(mask)));
#else
  uint32_t bits = 0;
  for (int64_t l = 0; l < kWidth; ++l) bits |= static_cast<uint32_t>(mask[l] & 1) << l;
  return bits;
#endif
}

inline float sum_lanes(Vec v) {
  float sum = 0;
  for (int64_t l = 0; l < kWidth; ++l) sum += v[l];
  return sum;
}

inline float max_lanes(Vec v) {
  float best = v[0];
  for (int64_t l = 1; l < kWidth; ++l) best = v[l] > best ? v[l] : best;
  return best;
}

// 2^x for x <= 127, 2^-126 for all x below -126. Relative error below 1.2e-7. Step by step for several vectors: the
// steps of one wait for each other.
template <int kCount>
inline void exp2(Vec (&x)[kCount]) {
  const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  Vec t[kCount], p[kCount];
#define FASTPIXCON_EACH(statement) \
  _Pragma("GCC unroll 8") for (int i = 0; i < kCount; ++i) { statement; }
  FASTPIXCON_EACH(x[i] = maximum(splat(-126.0f), x[i]))
  FASTPIXCON_EACH(t[i] = x[i] + magic)
  FASTPIXCON_EACH(x[i] -= t[i] - magic)  // [-1/2, 1/2]
  FASTPIXCON_EACH(p[i] = splat(0.000153458124f) * x[i] + 0.00133999309f)
  FASTPIXCON_EACH(p[i] = p[i] * x[i] + 0.00961848907f)
  FASTPIXCON_EACH(p[i] = p[i] * x[i] + 0.0555032864f)
  FASTPIXCON_EACH(p[i] = p[i] * x[i] + 0.240226462f)
  FASTPIXCON_EACH(p[i] = p[i] * x[i] + 0.693147182f)
  FASTPIXCON_EACH(p[i] = p[i] * x[i] + 1.0f)
  FASTPIXCON_EACH(x[i] = reinterpret_cast<Vec>(reinterpret_cast<IntVec>(p[i]) + (reinterpret_cast<IntVec>(t[i]) << 23)))
#undef FASTPIXCON_EACH
}

inline Vec exp2(Vec x) {
  Vec one[1] = {x};
  exp2(one);
  return one[0];
}

// log(1 + t) for 0 <= t <= 1, relative error below 2e-7: t times a polynomial, so that it is exact at 0.
inline Vec log1p_unit(Vec t) {
  Vec p = splat(-0.0032440233f);
  p = p * t + 0.0198514536f;
  p = p * t + -0.0569595173f;
  p = p * t + 0.106036536f;
  p = p * t + -0.153055921f;
  p = p * t + 0.196759388f;
  p = p * t + -0.249541342f;
  p = p * t + 0.333299637f;
  p = p * t + -0.499999017f;
  p = p * t + 1.0f;
  return p * t;
}

}  // namespace
}  // namespace fastpixcon::cpu
