// Products of tiles in float: rows as they are, but for the columns of a logits tile, [count / kLanes][depth][kLanes].
#pragma once

#include <cstdint>

#include "cpu/tile.h"
#include "cpu/tile_micro.h"

namespace fastpixcon::cpu {
namespace {

constexpr bool kBf16 = false;

int64_t pack_size(Part part, int64_t count, int64_t depth, int64_t) { return part == Part::kRight ? count * depth : 0; }

void pack(Part, const Operand& operand, float* packed, int64_t first, int64_t last) {
  for (int64_t p = first; p < last; ++p) {
    const float* rows = operand.rows + p * kLanes * operand.stride;
    float* out = packed + p * operand.depth * kLanes;
    transpose_rows(reinterpret_cast<const uint32_t*>(rows), operand.stride, operand.depth,
                   reinterpret_cast<uint32_t*>(out));
  }
}

void ahead_of(const Operand& operand, Part part, int64_t row, int64_t count, Ahead& ahead) {
  if (part == Part::kRight) {
    ahead.add(operand.of(part) + row * operand.depth, count * operand.depth * 4);
  } else {
    ahead.add(operand.rows + row * operand.stride, count * operand.stride * 4);
  }
}

void logits(const Operand& a, int64_t i0, int64_t m, const Operand& c, int64_t j0, int64_t n, float* s, Ahead& ahead) {
  for (int64_t k0 = 0; k0 < a.depth; k0 += kDepth) {
    const int64_t k = a.depth - k0 < kDepth ? a.depth - k0 : kDepth;
    const float* rows = a.rows + i0 * a.stride + k0;
    for (int64_t j = 0; j < n; j += kLanes) {
      const float* columns = c.of(Part::kRight) + (j0 + j) * c.depth + k0 * kLanes;
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
}  // namespace fastpixcon::cpu
