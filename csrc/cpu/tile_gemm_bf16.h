// Products of tiles in pairs of bfloat16 with float sums.
//
// Operand.packed, in words of two bfloat16:
//   left   [count][left_stride][2 k]         rows of a logits tile
//   right  [count / kLanes][k / 2][kLanes][2 k]  its columns
//   values [count / 2][stride][2 r]          what gradient tiles are multiplied with
#pragma once

#include <cstdint>

#include "cpu/bf16_pairs.h"
#include "cpu/tile.h"
#include "cpu/tile_micro.h"

namespace fastpixcon::cpu {
namespace {

constexpr bool kBf16 = true;

struct PairOperand {
  explicit PairOperand(const Operand& operand)
      : depth((operand.depth + 1) / 2),
        left_stride(odd_lines(depth)),
        values_stride(operand.stride),
        left(reinterpret_cast<const Pair*>(operand.of(Part::kLeft))),
        right(reinterpret_cast<const Pair*>(operand.of(Part::kRight))),
        values(reinterpret_cast<const Pair*>(operand.of(Part::kValues))) {}

  const Pair* left_row(int64_t row) const { return left + row * left_stride; }
  const Pair* right_panel(int64_t row) const { return right + row * depth; }
  const Pair* values_row(int64_t row) const { return values + row / 2 * values_stride; }

  int64_t depth, left_stride, values_stride;  // in words
  const Pair *left, *right, *values;
};

int64_t pack_size(Part part, int64_t count, int64_t depth, int64_t stride) {
  const int64_t words = (depth + 1) / 2;
  if (part == Part::kValues) return count / 2 * stride;
  return count * (part == Part::kLeft ? odd_lines(words) : words);
}

// Neighbours of x in pairs, words up to a multiple of kWidth: zeros follow D.
inline void pack_neighbours(const float* x, int64_t words, Pair* out) {
  static_assert(kLanes % (2 * kWidth) == 0);  // so far rows have zeros
  for (int64_t k = 0; k < words; k += kWidth)
    store_words(out + k, neighbour_pairs(load(x + 2 * k), load(x + 2 * k + kWidth)));
}

void pack(Part part, const Operand& operand, float* packed, int64_t first, int64_t last) {
  constexpr int64_t kChunk = 64;  // words of a panel at a time, which stay in the first-level cache
  Pair* out = reinterpret_cast<Pair*>(packed);
  const int64_t words = (operand.depth + 1) / 2, stride = operand.stride;
  for (int64_t row = first * kLanes; row < last * kLanes; row += kLanes) {
    const float* x = operand.rows + row * stride;  // [kLanes][stride]
    if (part == Part::kLeft) {
      for (int64_t r = 0; r < kLanes; ++r) pack_neighbours(x + r * stride, words, out + (row + r) * odd_lines(words));
    } else if (part == Part::kRight) {
      alignas(64) Pair chunk[kLanes * kChunk];  // [kLanes][kChunk]
      for (int64_t k = 0; k < words; k += kChunk) {
        const int64_t n = words - k < kChunk ? words - k : kChunk;
        for (int64_t r = 0; r < kLanes; ++r) pack_neighbours(x + r * stride + 2 * k, n, chunk + r * kChunk);
        transpose_rows(chunk, kChunk, n, out + row * words + k * kLanes);
      }
    } else {
      for (int64_t r = 0; r < kLanes; r += 2)
        for (int64_t k = 0; k < stride; k += kWidth)
          store_words(out + (row + r) / 2 * stride + k,
                      lane_pairs(load(x + r * stride + k), load(x + (r + 1) * stride + k)));
    }
  }
}

void ahead_of(const Operand& operand, Part part, int64_t row, int64_t count, Ahead& ahead) {
  const PairOperand x(operand);
  if (part == Part::kLeft) ahead.add(x.left_row(row), count * x.left_stride * 4);
  if (part == Part::kRight) ahead.add(x.right_panel(row), count * x.depth * 4);
  if (part == Part::kValues) ahead.add(x.values_row(row), (count + 1) / 2 * x.values_stride * 4);
}

void logits(const Operand& a_rows, int64_t i0, int64_t m, const Operand& c_rows, int64_t j0, int64_t n, float* s,
            Ahead& ahead) {
  const PairOperand a(a_rows), c(c_rows);
  for (int64_t k0 = 0; k0 < a.depth; k0 += kDepth) {
    const int64_t k = a.depth - k0 < kDepth ? a.depth - k0 : kDepth;
    const Pair* rows = a.left_row(i0) + k0;
    for (int64_t j = 0; j < n; j += kLanes) {
      const Pair* columns = c.right_panel(j0 + j) + k0 * kLanes;
      if (k0 == 0) {
        panel<true, false>(m, k, rows, a.left_stride, columns, kLanes, s + j, kTileStride, ahead);
      } else {
        panel<true, true>(m, k, rows, a.left_stride, columns, kLanes, s + j, kTileStride, ahead);
      }
    }
  }
}

constexpr int64_t kCutStride = 112;  // words of kTile columns: 7 cache lines

// d [m][stride] += h [m][n] values(j0..), h rounded to bfloat16 in pairs of columns.
void add_rows(const float* h, int64_t m, int64_t n, const Operand& c_rows, int64_t j0, float* d, Ahead& ahead) {
  alignas(64) Pair cut[kTile * kCutStride];  // [m][kCutStride]
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; j += 2 * kWidth) {
      const float* from = h + i * kTileStride + j;
      store_words(cut + i * kCutStride + j / 2, neighbour_pairs(load(from), load(from + kWidth)));
    }
  const PairOperand c(c_rows);
  for (int64_t k = 0; k < c_rows.depth; k += kLanes)
    panel<true, true>(m, (n + 1) / 2, cut, kCutStride, c.values_row(j0) + k, c.values_stride, d + k, c_rows.stride,
                      ahead);
}

// d [n][stride] += h^T values(i0..), h rounded to bfloat16 in pairs of rows.
void add_columns(const float* h, int64_t m, int64_t n, const Operand& a_rows, int64_t i0, float* d, Ahead& ahead) {
  alignas(64) Pair cut[kTile / 2 * kTileStride];  // [m / 2][kTileStride]
  for (int64_t i = 0; i < m; i += 2)
    for (int64_t j = 0; j < n; j += kWidth) {
      const float* from = h + i * kTileStride + j;
      const Vec second = i + 1 < m ? load(from + kTileStride) : Vec{};
      store_words(cut + i / 2 * kTileStride + j, lane_pairs(load(from), second));
    }
  const PairOperand a(a_rows);
  for (int64_t k = 0; k < a_rows.depth; k += kLanes)
    panel<false, true>(n, (m + 1) / 2, cut, kTileStride, a.values_row(i0) + k, a.values_stride, d + k, a_rows.stride,
                       ahead);
}

}  // namespace
}  // namespace fastpixcon::cpu
