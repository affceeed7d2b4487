// Products of tiles: C [m][n] += A [m][k] B [k][n] in registers of FASTPIXCON_TILE_ROWS x kLanes, over words: a word of
// A and B is a float, or two bfloat16 (bf16_pairs.h), and k counts words.
#pragma once

#include <cstdint>

#include "cpu/tile.h"
#include "cpu/vec.h"

namespace fastpixcon::cpu {
namespace {

constexpr int kRows = FASTPIXCON_TILE_ROWS;        // rows held in registers
constexpr int kVectors = FASTPIXCON_TILE_VECTORS;  // vectors a row
constexpr int64_t kLanes = kVectors * kWidth;
constexpr int64_t kBytesAhead = kRows * kLanes / 12;  // fetched ahead for every word of k
constexpr int64_t kDepth = 384;                       // a panel [kDepth][kLanes] of B stays in the first-level cache

typedef uint32_t Word __attribute__((may_alias));

// out [k][kLanes] = rows [kLanes][stride], transposed, by blocks that stay in the first-level cache.
inline void transpose_rows(const Word* rows, int64_t stride, int64_t k, Word* out) {
  constexpr int64_t kBlock = 16;
  Word block[kBlock][kLanes];
  for (int64_t k0 = 0; k0 < k; k0 += kBlock) {
    const int64_t count = k - k0 < kBlock ? k - k0 : kBlock;
    for (int64_t r = 0; r < kLanes; ++r)
      for (int64_t l = 0; l < count; ++l) block[l][r] = rows[r * stride + k0 + l];
    for (int64_t l = 0; l < count; ++l)
      for (int64_t r = 0; r < kLanes; ++r) out[(k0 + l) * kLanes + r] = block[l][r];
  }
}

inline Vec load_words(const float* p) { return load(p); }
inline Vec multiply_add(Vec sum, float a, Vec b) { return sum + a * b; }

// A is read as a[m * stride + k] (kRowMajor) or a[k * stride + m]; B as b[k * b_stride + lane].
template <int M, bool kRowMajor, bool kAccumulate, class Word>
inline void micro(int64_t k, const Word* a, int64_t stride, const Word* b, int64_t b_stride, float* c, int64_t c_stride,
                  Ahead& ahead) {
  Vec sum[M][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[i][v] = kAccumulate ? load(c + i * c_stride + v * kWidth) : Vec{};
  Ahead::Line line = ahead.take(k * kBytesAhead, kBytesAhead);
  for (int64_t l = 0; l < k; ++l) {
    __builtin_prefetch(line.at, 0, 2);
    line.at += line.step;
    decltype(load_words(b)) row[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) row[v] = load_words(b + v * kWidth);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const Word x = a[i * (kRowMajor ? stride : 1)];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[i][v] = multiply_add(sum[i][v], x, row[v]);
    }
    a += kRowMajor ? 1 : stride;
    b += b_stride;
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(c + i * c_stride + v * kWidth, sum[i][v]);
}

// The same for the last m < M rows.
template <int M, bool kRowMajor, bool kAccumulate, class Word>
inline void micro_tail(int64_t m, int64_t k, const Word* a, int64_t stride, const Word* b, int64_t b_stride, float* c,
                       int64_t c_stride, Ahead& ahead) {
  if constexpr (M > 0) {
    if (m == M) return micro<M, kRowMajor, kAccumulate>(k, a, stride, b, b_stride, c, c_stride, ahead);
    micro_tail<M - 1, kRowMajor, kAccumulate>(m, k, a, stride, b, b_stride, c, c_stride, ahead);
  }
}

// One panel of kLanes columns of C.
template <bool kRowMajor, bool kAccumulate, class Word>
inline void panel(int64_t m, int64_t k, const Word* a, int64_t stride, const Word* b, int64_t b_stride, float* c,
                  int64_t c_stride, Ahead& ahead) {
  const int64_t row_step = kRowMajor ? stride : 1;
  int64_t i = 0;
  for (; i + kRows <= m; i += kRows) {
    micro<kRows, kRowMajor, kAccumulate>(k, a + i * row_step, stride, b, b_stride, c + i * c_stride, c_stride, ahead);
  }
  micro_tail<kRows - 1, kRowMajor, kAccumulate>(m - i, k, a + i * row_step, stride, b, b_stride, c + i * c_stride,
                                                c_stride, ahead);
}

}  // namespace
}  // namespace fastpixcon::cpu
