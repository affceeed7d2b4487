// Tiles of rows in shared memory, and a warp's products of them.
//
// A tile is kept in panels of 128 bytes a row, [panel][row][128 bytes], and of every 8 rows the 16-byte pieces are
// swizzled, so that neither 8 rows of a piece nor 8 pieces of a row share a bank. A product of two rows takes their
// bytes from left to right in every kernel, so a logit has the same bits wherever it is computed.
#pragma once

#include "cuda/halves.cuh"
#include "cuda/precision.h"
#include "cuda/ptx.cuh"

namespace fastpixcon {

constexpr int kPanel = 128;  // bytes of a row in a panel
constexpr int kPiece = 16;   // bytes that are copied together

// Where piece `piece` (of 8) of row `row` is in a panel.
__device__ inline int piece_at(int row, int piece) { return row * kPanel + (piece ^ (row & 7)) * kPiece; }

struct Lane {
  int lane = threadIdx.x % 32;
  int g = lane / 4, t = lane % 4;
};

template <Precision kPrecision>
__device__ void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (kPrecision == Precision::kBFloat16) {
    multiply_add_bf16(d, a, b);
  } else if constexpr (kPrecision == Precision::kHalf) {
    multiply_add_f16(d, a, b);
  } else {
    multiply_add_tf32(d, a, b);
  }
}

// Float32 numbers as TF32 ones: rounded, and what is left.
template <int kCount>
__device__ void split(const uint32_t (&x)[kCount], uint32_t (&high)[kCount], uint32_t (&low)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float value = __uint_as_float(x[i]);
    high[i] = round_to_tf32(value);
    low[i] = round_to_tf32(value - __uint_as_float(high[i]));
  }
}

// d[m][first + n] += a[m] b[n] for all m and n.
template <Precision kPrecision, int kM, int kAll, int kN>
__device__ void multiply_add_all(float (&d)[kM][kAll][4], const uint32_t (&a)[kM][4], const uint32_t (&b)[kN][2],
                                 int first = 0) {
  if constexpr (is_half(kPrecision)) {
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < kN; ++n) multiply_add<kPrecision>(d[m][first + n], a[m], b[n]);
  } else {
    uint32_t a_high[kM][4], a_low[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) split(a[m], a_high[m], a_low[m]);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      uint32_t b_high[2], b_low[2];
      split(b[n], b_high, b_low);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        float (&sum)[4] = d[m][first + n];
        if constexpr (kPrecision == Precision::kTf32) {
          multiply_add_tf32(sum, a_high[m], b_high);
        } else {
          // Tensor cores cut what they add up off, always towards zero, which would show in a long sum; float32 rounds
          // (Ootomo and Yokota, 2022).
          float few[4];
          multiply_tf32(few, a_low[m], b_low);
          multiply_add_tf32(few, a_low[m], b_high);
          multiply_add_tf32(few, a_high[m], b_low);
          multiply_add_tf32(few, a_high[m], b_high);
#pragma unroll
          for (int i = 0; i < 4; ++i) sum[i] += few[i];
        }
      }
    }
  }
}

// sum = a b of kSteps times 16 columns of numbers in two halves. Tensor cores cut off what they add up, always towards
// zero, which would show in a long sum: few are added up there, the small products for themselves, and sums of these
// are made in float32, which rounds.
template <int kSteps>
__device__ void multiply_halves(float (&sum)[4], const uint32_t (&a_high)[kSteps][4],
                                const uint32_t (&a_low)[kSteps][4], const uint32_t (&b_high)[kSteps][2],
                                const uint32_t (&b_low)[kSteps][2]) {
  float large[4], small[4];
  multiply_f16(small, a_low[0], b_high[0]);
  multiply_f16(large, a_high[0], b_high[0]);
  multiply_add_f16(small, a_high[0], b_low[0]);
#pragma unroll
  for (int step = 1; step < kSteps; ++step) {
    multiply_add_f16(small, a_low[step], b_high[step]);
    multiply_add_f16(large, a_high[step], b_high[step]);
    multiply_add_f16(small, a_high[step], b_low[step]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) sum[i] = fmaf(small[i], kLowUnit, large[i]);
}

// Of panels of numbers in two halves, as multiply_panels.
template <int kM, int kN>
__device__ void multiply_panels_halves(float (&d)[kM][kN][4], const char* a, int first_a, const char* b, int first_b) {
  constexpr int kLow = kPanel / kPiece / 2;  // the first piece of low halves
  const int lane = threadIdx.x % 32;
  uint32_t high[kM][2][4], low[kM][2][4];
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      const int row = first_a + 16 * m + lane % 16, piece = 2 * step + lane / 16;
      load_matrices(high[m][step], a + piece_at(row, piece));
      load_matrices(low[m][step], a + piece_at(row, kLow + piece));
    }
#pragma unroll
  for (int n = 0; n < kN; ++n) {
    const int row = first_b + 8 * n + lane % 8, piece = lane / 8;
    uint32_t y_high[2][2], y_low[2][2];
    load_matrices(y_high, b + piece_at(row, piece));
    load_matrices(y_low, b + piece_at(row, kLow + piece));
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      float sum[4];
      multiply_halves(sum, high[m], low[m], y_high, y_low);
#pragma unroll
      for (int i = 0; i < 4; ++i) d[m][n][i] += sum[i];
    }
  }
}

// The same without tensor cores, four columns of both panels at a time: a rows first_a + 16 m + g and 8 below it,
// b rows first_b + 8 n + 2t and the next.
template <int kM, int kN>
__device__ void multiply_panels_float(float (&d)[kM][kN][4], const char* a, int first_a, const char* b, int first_b) {
  const Lane l;
#pragma unroll 1
  for (int piece = 0; piece < kPanel / kPiece; ++piece) {
    float4 x[kM][2];
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        x[m][i] = *reinterpret_cast<const float4*>(a + piece_at(first_a + 16 * m + l.g + 8 * i, piece));
#pragma unroll
    for (int n = 0; n < kN; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float4 y = *reinterpret_cast<const float4*>(b + piece_at(first_b + 8 * n + 2 * l.t + j, piece));
#pragma unroll
        for (int m = 0; m < kM; ++m)
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            float& sum = d[m][n][2 * i + j];
            sum = fmaf(x[m][i].x, y.x, sum);
            sum = fmaf(x[m][i].y, y.y, sum);
            sum = fmaf(x[m][i].z, y.z, sum);
            sum = fmaf(x[m][i].w, y.w, sum);
          }
      }
  }
}

// Adds to d [16 kM, 8 kN] the products of the rows first_a.. of panel a with the rows first_b.. of panel b.
template <Precision kPrecision, int kM, int kN>
__device__ void multiply_panels(float (&d)[kM][kN][4], const char* a, int first_a, const char* b, int first_b) {
  static_assert(kN == 1 || kN % 2 == 0);
  if constexpr (kPrecision == Precision::kFloat) {
    multiply_panels_float(d, a, first_a, b, first_b);
  } else if constexpr (kPrecision == Precision::kHalfx3) {
    multiply_panels_halves(d, a, first_a, b, first_b);
  } else {
    const int lane = threadIdx.x % 32;
    constexpr int kUnroll = kPrecision == Precision::kTf32x4 ? 1 : kPanel / 32;  // numbers in two halves fill registers
#pragma unroll kUnroll
    for (int step = 0; step < kPanel / 32; ++step) {
      uint32_t x[kM][4], y[kN][2];
#pragma unroll
      for (int m = 0; m < kM; ++m)
        load_matrices(x[m], a + piece_at(first_a + 16 * m + lane % 16, 2 * step + lane / 16));
      if constexpr (kN == 1) {
        load_matrices(y[0], b + piece_at(first_b + lane % 8, 2 * step + lane / 8 % 2));
      } else {
#pragma unroll
        for (int n = 0; n < kN; n += 2) {
          uint32_t both[4];
          load_matrices(both, b + piece_at(first_b + 8 * n + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2));
          y[n][0] = both[0], y[n][1] = both[1], y[n + 1][0] = both[2], y[n + 1][1] = both[3];
        }
      }
      multiply_add_all<kPrecision>(d, x, y);
    }
  }
}

// Starts to copy `panels` panels of the rows first.. of x [.., row_bytes], from panel `panel` on; zeros from row `end`
// on.
template <int kRows, int kThreads>
__device__ void copy_panels(char* to, const char* x, int row_bytes, int panel, int panels, int first, int end) {
  constexpr int kPieces = kPanel / kPiece;
  static_assert(kRows * kPieces % kThreads == 0 && kThreads % kPieces == 0);
  const int piece = threadIdx.x % kPieces;
#pragma unroll
  for (int i = 0; i < kRows * kPieces / kThreads; ++i) {
    const int row = (i * kThreads + static_cast<int>(threadIdx.x)) / kPieces;
    const bool here = first + row < end;
    const char* from = x + static_cast<int64_t>(here ? first + row : 0) * row_bytes + panel * kPanel + piece * kPiece;
    char* at = to + piece_at(row, piece);
    for (int k = 0; k < panels; ++k, from += kPanel, at += kRows * kPanel) copy_async_16(at, from, here);
  }
}

// The same of rows of x [.., bytes], a multiple of 16, which may end within a panel: zeros beyond.
template <int kRows, int kThreads>
__device__ void copy_rows(char* to, const char* x, int bytes, int panel, int panels, int first, int end) {
  constexpr int kPieces = kPanel / kPiece;
  static_assert(kRows * kPieces % kThreads == 0 && kThreads % kPieces == 0);
  const int piece = threadIdx.x % kPieces;
#pragma unroll
  for (int i = 0; i < kRows * kPieces / kThreads; ++i) {
    const int row = (i * kThreads + static_cast<int>(threadIdx.x)) / kPieces;
    const char* const from = x + static_cast<int64_t>(first + row < end ? first + row : 0) * bytes;
    char* at = to + piece_at(row, piece);
    for (int k = 0; k < panels; ++k, at += kRows * kPanel) {
      const int offset = (panel + k) * kPanel + piece * kPiece;
      const bool here = first + row < end && offset < bytes;
      copy_async_16(at, from + (here ? offset : 0), here);
    }
  }
}

}  // namespace fastpixcon
