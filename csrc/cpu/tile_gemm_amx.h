// Products of tiles in bfloat16 with float sums, 32 x 32 at a time in four AMX registers.
//
// Operand.packed, [count][depth] bfloat16 each, cut into the 1 KiB tiles that AMX loads (rows r, depth k up to a
// multiple of 32):
//   left   [r / 16][k / 32][16 r][32 k]      rows of a logits tile
//   right  [r / 16][k / 32][16 k/2][16 r][2] its columns
//   values [r / 32][k / 16][16 r/2][16 k][2] what gradient tiles are multiplied with
#pragma once

#include <cstdint>

#include "cpu/amx.h"
#include "cpu/tile.h"
#include "cpu/vec.h"

namespace fastpixcon::cpu {
namespace {

constexpr bool kBf16 = true;
constexpr int64_t kLanes = 32;
constexpr int64_t kAmxWords = 512;  // bfloat16 in a tile

inline int64_t amx_depth(int64_t depth) { return (depth + 31) / 32 * 32; }

inline int64_t pack_size(Part, int64_t count, int64_t depth, int64_t) { return count * amx_depth(depth) / 2; }

struct AmxOperand {
  explicit AmxOperand(const Operand& operand)
      : depth(amx_depth(operand.depth)),
        left(reinterpret_cast<const uint16_t*>(operand.of(Part::kLeft))),
        right(reinterpret_cast<const uint16_t*>(operand.of(Part::kRight))),
        values(reinterpret_cast<const uint16_t*>(operand.of(Part::kValues))) {}

  const uint16_t* left_tile(int64_t row, int64_t k) const { return left + row * depth + k * 16; }
  const uint16_t* right_tile(int64_t row, int64_t k) const { return right + row * depth + k * 16; }
  const uint16_t* values_tile(int64_t row, int64_t k) const { return values + row * depth + k * 32; }

  int64_t depth;
  const uint16_t *left, *right, *values;
};

inline uint16_t bf16_bits(float x) {  // x is a bfloat16 already
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return static_cast<uint16_t>(bits >> 16);
}

void pack(Part part, const Operand& operand, float* packed, int64_t first, int64_t last) {
  const int64_t depth = amx_depth(operand.depth);
  uint16_t* out = reinterpret_cast<uint16_t*>(packed);
  for (int64_t row = first * kLanes; row < last * kLanes; ++row) {
    const float* x = operand.rows + row * operand.stride;
    const int64_t r16 = row % 16, r32 = row % 32;
    for (int64_t k = 0; k < depth; ++k) {
      const uint16_t bits = k < operand.depth ? bf16_bits(x[k]) : 0;
      const int64_t k16 = k % 16, k32 = k % 32;
      if (part == Part::kLeft) {
        out[(row - r16) * depth + (k - k32) * 16 + r16 * 32 + k32] = bits;
      } else if (part == Part::kRight) {
        out[(row - r16) * depth + (k - k32) * 16 + k32 / 2 * 32 + r16 * 2 + k32 % 2] = bits;
      } else {
        out[(row - r32) * depth + (k - k16) * 32 + r32 / 2 * 32 + k16 * 2 + r32 % 2] = bits;
      }
    }
  }
}

void ahead_of(const Operand&, Part, int64_t, int64_t, Ahead&) {}  // nothing is fetched while tiles multiply

// c [32][32] (+)= a b over `steps` tiles; a's and b's second tiles stand a_next and b_next words on.
template <bool kAccumulate>
inline void amx_block(int64_t steps, const uint16_t* a, int64_t a_step, int64_t a_next, const uint16_t* b,
                      int64_t b_step, int64_t b_next, float* c, int64_t c_stride) {
  const int64_t bytes = c_stride * 4;
  if constexpr (kAccumulate) {
    amx_load(0, c, bytes);
    amx_load(1, c + 16, bytes);
    amx_load(2, c + 16 * c_stride, bytes);
    amx_load(3, c + 16 * c_stride + 16, bytes);
  } else {
    amx_zero(0);
    amx_zero(1);
    amx_zero(2);
    amx_zero(3);
  }
  for (int64_t s = 0; s < steps; ++s, a += a_step, b += b_step) {
    amx_load(4, a, 64);
    amx_load(6, b, 64);
    amx_product(0, 4, 6);
    amx_load(7, b + b_next, 64);
    amx_product(1, 4, 7);
    amx_load(5, a + a_next, 64);
    amx_product(2, 5, 6);
    amx_product(3, 5, 7);
  }
  amx_store(0, c, bytes);
  amx_store(1, c + 16, bytes);
  amx_store(2, c + 16 * c_stride, bytes);
  amx_store(3, c + 16 * c_stride + 16, bytes);
}

void logits(const Operand& a_rows, int64_t i0, int64_t m, const Operand& c_rows, int64_t j0, int64_t n, float* s,
            Ahead&) {
  const AmxOperand a(a_rows), c(c_rows);
  const int64_t next = 16 * a.depth;
  amx_configure();
  for (int64_t j = 0; j < n; j += 32)
    for (int64_t i = 0; i < m; i += 32)
      amx_block<false>(a.depth / 32, a.left_tile(i0 + i, 0), kAmxWords, next, c.right_tile(j0 + j, 0), kAmxWords, next,
                       s + i * kTileStride + j, kTileStride);
  amx_release();
}

typedef uint32_t WordVec __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t HalfVec __attribute__((vector_size(32), aligned(2), may_alias));

// Round to nearest even.
inline WordVec to_bf16(Vec x) {
  const WordVec bits = reinterpret_cast<WordVec>(x);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

// A gradient tile in bfloat16, cut into tiles [m / 16][n / 32][16][32], zeros past m and n.
void cut_rows(const float* h, int64_t m, int64_t n, int64_t width, uint16_t* out) {
  for (int64_t i = 0; i < (m + 31) / 32 * 32; ++i)
    for (int64_t j = 0; j < width; j += 16) {
      WordVec bits{};
      if (i < m && j < n) {
        const Vec x = load(h + i * kTileStride + j);
        bits = to_bf16(select(lanes_between(0, n - j), x, Vec{}));
      }
      uint16_t* tile = out + i / 16 * 16 * width + j / 32 * kAmxWords;
      *reinterpret_cast<HalfVec*>(tile + i % 16 * 32 + j % 32) = __builtin_convertvector(bits, HalfVec);
    }
}

// Its transpose, [n / 16][m / 32][16][32]: pairs of rows side by side are words, and words are transposed 16 x 16.
void cut_columns(const float* h, int64_t m, int64_t n, int64_t width, uint16_t* out) {
  for (int64_t i = 0; i < width; i += 32)
    for (int64_t j = 0; j < (n + 31) / 32 * 32; j += 16) {
      uint32_t words[16][16];  // [pair of rows][column]
      const IntVec keep = lanes_between(0, n - j);
      for (int64_t p = 0; p < 16; ++p) {
        const int64_t row = i + 2 * p;
        WordVec low{}, high{};
        if (j < n && row < m) low = to_bf16(select(keep, load(h + row * kTileStride + j), Vec{}));
        if (j < n && row + 1 < m) high = to_bf16(select(keep, load(h + (row + 1) * kTileStride + j), Vec{}));
        *reinterpret_cast<WordVec*>(words[p]) = low | (high << 16);
      }
      uint32_t* tile = reinterpret_cast<uint32_t*>(out + j / 16 * 16 * width + i / 32 * kAmxWords);
      for (int64_t c = 0; c < 16; ++c)
        for (int64_t p = 0; p < 16; ++p) tile[c * 16 + p] = words[p][c];
    }
}

// d [m][stride] += cut [m][width] values(k0..)
inline void add_product(const uint16_t* cut, int64_t m, int64_t width, const Operand& rows, int64_t k0, float* d) {
  const AmxOperand v(rows);
  amx_configure();
  for (int64_t k = 0; k < v.depth; k += 32)
    for (int64_t i = 0; i < m; i += 32)
      amx_block<true>(width / 32, cut + i * width, kAmxWords, 16 * width, v.values_tile(k0, k), 32 * v.depth, kAmxWords,
                      d + i * rows.stride + k, rows.stride);
  amx_release();
}

void add_rows(const float* h, int64_t m, int64_t n, const Operand& c, int64_t j0, float* d, Ahead&) {
  alignas(64) uint16_t cut[kTile * kTile];
  const int64_t width = (n + 31) / 32 * 32;
  cut_rows(h, m, n, width, cut);
  add_product(cut, m, width, c, j0, d);
}

void add_columns(const float* h, int64_t m, int64_t n, const Operand& a, int64_t i0, float* d, Ahead&) {
  alignas(64) uint16_t cut[kTile * kTile];
  const int64_t width = (m + 31) / 32 * 32;
  cut_columns(h, m, n, width, cut);
  add_product(cut, n, width, a, i0, d);
}

}  // namespace
}  // namespace fastpixcon::cpu
