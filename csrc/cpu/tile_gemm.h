// Products of tiles: C [m][n] += A [m][k] B [k][n] in registers of FASTPIXCON_TILE_ROWS x kLanes.
#pragma once

#include <cstdint>

#include "cpu/tile.h"
#include "cpu/vec.h"

namespace fastpixcon {
namespace {

constexpr int kRows = FASTPIXCON_TILE_ROWS;        // rows held in registers
constexpr int kVectors = FASTPIXCON_TILE_VECTORS;  // vectors a row
constexpr int64_t kLanes = kVectors * kWidth;
constexpr int64_t kLinesAhead = 24;  // fetched ahead before every block of registers
constexpr int64_t kDepth = 384;      // a panel [kDepth][kLanes] of B stays in the first-level cache

// A is read as a[m * stride + k] (kRowMajor) or a[k * stride + m]; B as b[k * b_stride + lane].
template <int M, bool kRowMajor, bool kAccumulate>
inline void micro(int64_t k, const float* a, int64_t stride, const float* b, int64_t b_stride, float* c,
                  int64_t c_stride) {
  Vec sum[M][kVectors];
  for (int i = 0; i < M; ++i)
    for (int v = 0; v < kVectors; ++v) sum[i][v] = kAccumulate ? load(c + i * c_stride + v * kWidth) : Vec{};
  for (int64_t l = 0; l < k; ++l) {
    Vec row[kVectors];
    for (int v = 0; v < kVectors; ++v) row[v] = load(b + l * b_stride + v * kWidth);
    for (int i = 0; i < M; ++i) {
      const float x = kRowMajor ? a[i * stride + l] : a[l * stride + i];
      for (int v = 0; v < kVectors; ++v) sum[i][v] += x * row[v];
    }
  }
  for (int i = 0; i < M; ++i)
    for (int v = 0; v < kVectors; ++v) store(c + i * c_stride + v * kWidth, sum[i][v]);
}

// The same for the last m < M rows.
template <int M, bool kRowMajor, bool kAccumulate>
inline void micro_tail(int64_t m, int64_t k, const float* a, int64_t stride, const float* b, int64_t b_stride, float* c,
                       int64_t c_stride) {
  if constexpr (M > 0) {
    if (m == M) return micro<M, kRowMajor, kAccumulate>(k, a, stride, b, b_stride, c, c_stride);
    micro_tail<M - 1, kRowMajor, kAccumulate>(m, k, a, stride, b, b_stride, c, c_stride);
  }
}

// One panel of kLanes columns of C.
template <bool kRowMajor, bool kAccumulate>
inline void panel(int64_t m, int64_t k, const float* a, int64_t stride, const float* b, int64_t b_stride, float* c,
                  int64_t c_stride, Ahead& ahead) {
  const int64_t row_step = kRowMajor ? stride : 1;
  int64_t i = 0;
  for (; i + kRows <= m; i += kRows) {
    ahead.fetch(kLinesAhead);
    micro<kRows, kRowMajor, kAccumulate>(k, a + i * row_step, stride, b, b_stride, c + i * c_stride, c_stride);
  }
  micro_tail<kRows - 1, kRowMajor, kAccumulate>(m - i, k, a + i * row_step, stride, b, b_stride, c + i * c_stride,
                                                c_stride);
}

int64_t pack_size(int64_t count, int64_t depth) { return count * depth; }

void pack(const Operand& operand, float* columns, int64_t first, int64_t last) {
  for (int64_t p = first; p < last; ++p) {
    const float* rows = operand.rows + p * kLanes * operand.stride;
    float* out = columns + p * operand.depth * kLanes;
    for (int64_t k = 0; k < operand.depth; ++k)
      for (int64_t r = 0; r < kLanes; ++r) out[k * kLanes + r] = rows[r * operand.stride + k];
  }
}

void logits(const Operand& a, int64_t i0, int64_t m, const Operand& c, int64_t j0, int64_t n, float* s, Ahead& ahead) {
  for (int64_t k0 = 0; k0 < a.depth; k0 += kDepth) {
    const int64_t k = a.depth - k0 < kDepth ? a.depth - k0 : kDepth;
    const float* rows = a.rows + i0 * a.stride + k0;
    for (int64_t j = 0; j < n; j += kLanes) {
      const float* columns = c.columns + (j0 + j) * c.depth + k0 * kLanes;
      if (k0 == 0) {
        panel<true, false>(m, k, rows, a.stride, columns, kLanes, s + j, kTileStride, ahead);
      } else {
        panel<true, true>(m, k, rows, a.stride, columns, kLanes, s + j, kTileStride, ahead);
      }
    }
  }
}

void add_rows(const float* h, int64_t m, int64_t n, const Operand& c, int64_t j0, float* d, Ahead& ahead) {
  for (int64_t k = 0; k < c.depth; k += kLanes)
    panel<true, true>(m, n, h, kTileStride, c.rows + j0 * c.stride + k, c.stride, d + k, c.stride, ahead);
}

void add_columns(const float* h, int64_t m, int64_t n, const Operand& a, int64_t i0, float* d, Ahead& ahead) {
  for (int64_t k = 0; k < a.depth; k += kLanes)
    panel<false, true>(n, m, h, kTileStride, a.rows + i0 * a.stride + k, a.stride, d + k, a.stride, ahead);
}

}  // namespace
}  // namespace fastpixcon
