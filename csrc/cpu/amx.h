// Intel AMX: eight tile registers of 16 rows x 64 bytes, and their bfloat16 product.
//
// The same few names in software with FASTPIXCON_AMX_EMULATED, so that the kernels written in them can be tested on
// any processor. Register numbers are literals, as the compiler's intrinsics want them.
#pragma once

#include <cstdint>

#ifdef FASTPIXCON_AMX_EMULATED

namespace fastpixcon::cpu {
namespace {

struct AmxTile {
  uint32_t word[16][16];
};
thread_local AmxTile amx_tiles[8];

inline void amx_configure() {}
inline void amx_release() {}

inline void amx_zero(int t) {
  for (auto& row : amx_tiles[t].word)
    for (uint32_t& word : row) word = 0;
}

inline void amx_load(int t, const void* from, int64_t stride) {
  for (int64_t r = 0; r < 16; ++r)
    __builtin_memcpy(amx_tiles[t].word[r], static_cast<const char*>(from) + r * stride, 64);
}

inline void amx_store(int t, void* to, int64_t stride) {
  for (int64_t r = 0; r < 16; ++r) __builtin_memcpy(static_cast<char*>(to) + r * stride, amx_tiles[t].word[r], 64);
}

inline float amx_bits(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

// c[m][n] += sum over pairs k of a[m][k].low * b[k][n].low + a[m][k].high * b[k][n].high
inline void amx_product(int c, int a, int b) {
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < 16; ++k) {
      const uint32_t x = amx_tiles[a].word[m][k];
      const float low = amx_bits(x << 16), high = amx_bits(x & 0xffff0000u);
      for (int n = 0; n < 16; ++n) {
        const uint32_t y = amx_tiles[b].word[k][n];
        float sum = amx_bits(amx_tiles[c].word[m][n]);
        sum += low * amx_bits(y << 16) + high * amx_bits(y & 0xffff0000u);
        __builtin_memcpy(&amx_tiles[c].word[m][n], &sum, 4);
      }
    }
}

}  // namespace
}  // namespace fastpixcon::cpu

#else

#include <immintrin.h>

namespace fastpixcon::cpu {
namespace {

struct alignas(64) AmxConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The compiler does not know that tile loads read memory (GCC's have no such clobber): what was written before has to
// be there, what is read afterwards has to be read again.
inline void amx_fence() { __asm__ volatile("" ::: "memory"); }

inline void amx_configure() {
  static constexpr AmxConfig config;
  amx_fence();
  _tile_loadconfig(&config);
}
inline void amx_release() {
  _tile_release();
  amx_fence();
}

}  // namespace
}  // namespace fastpixcon::cpu

#define amx_zero(t) _tile_zero(t)
#define amx_load(t, from, stride) _tile_loadd(t, from, stride)
#define amx_store(t, to, stride) _tile_stored(t, to, stride)
#define amx_product(c, a, b) _tile_dpbf16ps(c, a, b)

#endif
