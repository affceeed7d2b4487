// A tile of weights H of columns, which goes through shared memory, and its product with the rows of these columns.
#pragma once

#include "cuda/convert.cuh"
#include "cuda/tile.cuh"
#include "cuda/warp.cuh"

namespace fastpixcon {

// Tiles of kRows by kColumns. For the logits the warps stand kLogitM by kLogitN, for the gradient kGradientM by
// kGradientN, where a warp has up to 16 kPairs of the columns of the gradient.
template <int kRows_, int kColumns_, int kLogitM_, int kLogitN_, int kGradientM_, int kGradientN_, int kPairs_>
struct GradientShape {
  static constexpr int kRows = kRows_, kColumns = kColumns_, kPairs = kPairs_, kStages = 2;
  static constexpr int kLogitM = kLogitM_, kLogitN = kLogitN_, kGradientM = kGradientM_, kGradientN = kGradientN_;
  static constexpr int kThreads = 32 * kGradientM * kGradientN;
  static constexpr int kTerms = 4;  // numbers a column: label, weight, pull, sum

  static constexpr int stage_bytes(int row_bytes) { return kColumns * row_bytes; }
  static constexpr int shared_bytes(int row_bytes, int element) {
    return kRows * row_bytes + kStages * stage_bytes(row_bytes) + kRows * kColumns * element +
           kStages * kTerms * kColumns * 4;
  }
};

// Where piece `piece` of row `row` of H is: rows of 64 bytes share a panel's row by two.
template <int kRowBytes>
__device__ int h_piece_at(int row, int piece) {
  static_assert(kRowBytes == 64 || kRowBytes == 128);
  if constexpr (kRowBytes == 128) {
    return piece_at(row, piece);
  } else {
    return row * 64 + (piece ^ (row >> 1 & 3)) * kPiece;
  }
}

// H of columns 8 n + 2t and the next of a row. Of float32 the two go to where a product of matrices takes columns t and
// t + 4 from: with the rows of y in the same order, reading those without transposing costs no bank conflict.
template <Precision kPrecision, int kRowBytes>
__device__ void store_h(char* h, int row, int n, int t, float first, float second) {
  if constexpr (kPrecision == Precision::kBFloat16) {
    *reinterpret_cast<__nv_bfloat162*>(h + h_piece_at<kRowBytes>(row, n) + 4 * t) =
        __floats2bfloat162_rn(first, second);
  } else if constexpr (kPrecision == Precision::kHalf) {
    *reinterpret_cast<__half2*>(h + h_piece_at<kRowBytes>(row, n) + 4 * t) = __floats2half2_rn(first, second);
  } else if constexpr (kPrecision == Precision::kHalfx3) {
    __half2 high, low;
    split(first, second, high, low);
    *reinterpret_cast<__half2*>(h + h_piece_at<kRowBytes>(row, n) + 4 * t) = high;
    *reinterpret_cast<__half2*>(h + h_piece_at<kRowBytes>(row, kRowBytes / kPiece / 2 + n) + 4 * t) = low;
  } else {
    *reinterpret_cast<float*>(h + h_piece_at<kRowBytes>(row, 2 * n) + 4 * t) = first;
    *reinterpret_cast<float*>(h + h_piece_at<kRowBytes>(row, 2 * n + 1) + 4 * t) = second;
  }
}

// Of numbers in two halves a tile of H is in units of each of its rows, for they may be of any magnitude: bytes of
// shared memory for the largest |H| of every row that warps side by side have, [kLogitN][kRows].
template <typename Shape, Precision kPrecision>
constexpr int largest_bytes() {
  return kPrecision == Precision::kHalfx3 ? Shape::kLogitN * Shape::kRows * 4 : 0;
}

template <typename Shape>
__device__ float unit_at(const float* largest, int row) {
  float of_row = largest[row];
#pragma unroll
  for (int part = 1; part < Shape::kLogitN; ++part) of_row = fmaxf(of_row, largest[part * Shape::kRows + row]);
  return unit_of(of_row);
}

// H of a warp's rows first_m.. and 8 columns each first_n.., times `factor`, or in units of its rows; all threads take
// part, of warps that have none, too.
template <typename Shape, Precision kPrecision, int kM, int kN>
__device__ void store_tile(char* h, float* largest, const float (&values)[kM][kN][4], int first_m, int first_n,
                           bool has_some, float factor) {
  constexpr bool kInUnits = kPrecision == Precision::kHalfx3, kShared = kInUnits && Shape::kLogitN > 1;
  constexpr int kHBytes = Shape::kColumns * element_size(kPrecision);
  const Lane l;
  float factors[kM][2];
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      factors[m][i] = factor;
      if (!kInUnits || !has_some) continue;
      float of_row = 0;
#pragma unroll
      for (int n = 0; n < kN; ++n)
        of_row = fmaxf(of_row, fmaxf(fabsf(values[m][n][2 * i]), fabsf(values[m][n][2 * i + 1])));
      of_row = warp_max<4>(of_row);
      if (l.t == 0) largest[first_n / kN * Shape::kRows + first_m + 16 * m + 8 * i + l.g] = of_row;
      if (!kShared) factors[m][i] = inverse_of_power(unit_of(of_row));
    }
  if constexpr (kShared) __syncthreads();  // those of all warps are there
  if (!has_some) return;
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = first_m + 16 * m + 8 * i + l.g;
      if constexpr (kShared) factors[m][i] = inverse_of_power(unit_at<Shape>(largest, row));
#pragma unroll
      for (int n = 0; n < kN; ++n)
        store_h<kPrecision, kHBytes>(h, row, first_n + n, l.t, values[m][n][2 * i] * factors[m][i],
                                     values[m][n][2 * i + 1] * factors[m][i]);
    }
}

// Of the rows first.. of H as it was stored, what multiply_h wants.
template <typename Shape, Precision kPrecision, int kM>
__device__ void load_units(float (&units)[kM][2], const float* largest, int first) {
  const Lane l;
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i)
      units[m][i] = kPrecision == Precision::kHalfx3 ? unit_at<Shape>(largest, first + 16 * m + 8 * i + l.g) : 1.0f;
}

// Columns 16 q .. 16 q + 15 of the rows of a tile of y that piece of 32 bytes `step` of H is for, for two products.
template <Precision kPrecision, int kColumns>
__device__ void load_columns(uint32_t (&b)[2][2], const char* y, int step, int q) {
  const Lane l;
  if constexpr (is_half(kPrecision)) {
    const char* const panel = y + q / 4 * (kColumns * kPanel);
    load_matrices_transposed(b, panel + piece_at(16 * step + l.lane % 16, q % 4 * 2 + l.lane / 16));
  } else {
    const char* const panel = y + q / 2 * (kColumns * kPanel);
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int at = piece_at(8 * step + 2 * l.t + k, q % 2 * 4 + 2 * n + l.g / 4) + l.g % 4 * 4;
        b[n][k] = *reinterpret_cast<const uint32_t*>(panel + at);
      }
  }
}

// multiply_h of numbers in two halves, which H is, too: of a row all high ones, then all low ones.
template <typename Shape, bool kAll, int kM>
__device__ void multiply_h_halves(float (&gradient)[kM][2 * Shape::kPairs][4], const float (&units)[kM][2],
                                  const char* h, const char* columns, int row_bytes, int gradient_m, int gradient_n) {
  constexpr int kColumns = Shape::kColumns, kHBytes = 4 * kColumns, kSteps = kColumns / 16;
  constexpr int kLowH = kHBytes / kPiece / 2, kLow = kPanel / kPiece / 2;  // the first pieces of low halves
  const int lane = threadIdx.x % 32;
  uint32_t high[kM][kSteps][4], low[kM][kSteps][4];
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int row = gradient_m + 16 * m + lane % 16, piece = 2 * step + lane / 16;
      load_matrices(high[m][step], h + h_piece_at<kHBytes>(row, piece));
      load_matrices(low[m][step], h + h_piece_at<kHBytes>(row, kLowH + piece));
    }
#pragma unroll
  for (int pair = 0; pair < Shape::kPairs; ++pair) {
    const int q = gradient_n + Shape::kGradientN * pair;
    if (!kAll && 64 * q >= row_bytes) break;
    const char* const panel = columns + q / 2 * (kColumns * kPanel);
    uint32_t y_high[2][kSteps][2], y_low[2][kSteps][2];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int row = 16 * step + lane % 16, piece = q % 2 * 2 + lane / 16;
      uint32_t both[2][2];
      load_matrices_transposed(both, panel + piece_at(row, piece));
#pragma unroll
      for (int n = 0; n < 2; ++n) y_high[n][step][0] = both[n][0], y_high[n][step][1] = both[n][1];
      load_matrices_transposed(both, panel + piece_at(row, kLow + piece));
#pragma unroll
      for (int n = 0; n < 2; ++n) y_low[n][step][0] = both[n][0], y_low[n][step][1] = both[n][1];
    }
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        float sum[4];
        multiply_halves(sum, high[m], low[m], y_high[n], y_low[n]);
#pragma unroll
        for (int i = 0; i < 4; ++i)
          gradient[m][2 * pair + n][i] = fmaf(sum[i], units[m][i / 2], gradient[m][2 * pair + n][i]);
      }
  }
}

// Four numbers a lane side by side in place of two and two: of columns 2t, 2t+1 of two products, columns 4t..4t+3.
template <typename scalar_t>
__device__ void store_row(scalar_t* row, int q, const float (&low)[2], const float (&high)[2], int D) {
  const Lane l;
  float values[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int from = (l.lane & ~3) + (2 * l.t + i / 2) % 4;
    const float a = __shfl_sync(kAllLanes, low[i % 2], from), b = __shfl_sync(kAllLanes, high[i % 2], from);
    values[i] = l.t < 2 ? a : b;
  }
  if (row == nullptr) return;
  const int d = 16 * q + 4 * l.t;
  if (D % 4 == 0 && d < D) {
    if constexpr (sizeof(scalar_t) == 4) {
      *reinterpret_cast<float4*>(row + d) = make_float4(values[0], values[1], values[2], values[3]);
    } else {
      alignas(8) scalar_t four[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) four[i] = from_float<scalar_t>(values[i]);
      *reinterpret_cast<uint2*>(row + d) = *reinterpret_cast<const uint2*>(four);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (d + i < D) row[d + i] = from_float<scalar_t>(values[i]);
  }
}

// Adds H [kRows, kColumns] times the rows of the columns; a warp has the rows gradient_m.. and of the columns of the
// product every kGradientN-th 16 from gradient_n on. units: what H in halves is in units of, of the rows 16 m + g and 8
// below it. kAll: D_pad is all of them.
template <typename Shape, Precision kPrecision, bool kAll, int kM>
__device__ void multiply_h(float (&gradient)[kM][2 * Shape::kPairs][4], const float (&units)[kM][2], const char* h,
                           const char* columns, int row_bytes, int gradient_m, int gradient_n) {
  if constexpr (kPrecision == Precision::kHalfx3) {
    multiply_h_halves<Shape, kAll>(gradient, units, h, columns, row_bytes, gradient_m, gradient_n);
  } else {
    constexpr int kElement = element_size(kPrecision), kHBytes = Shape::kColumns * kElement;
    constexpr Precision kProducts = is_half(kPrecision)              ? kPrecision
                                    : kPrecision == Precision::kTf32 ? Precision::kTf32
                                                                     : Precision::kTf32x4;
    constexpr int kUnroll = kProducts == Precision::kTf32x4 ? 1 : kHBytes / 32;  // numbers in two halves fill registers
    const int lane = threadIdx.x % 32;
#pragma unroll kUnroll
    for (int step = 0; step < kHBytes / 32; ++step) {
      uint32_t a[kM][4];
#pragma unroll
      for (int m = 0; m < kM; ++m)
        load_matrices(a[m], h + h_piece_at<kHBytes>(gradient_m + 16 * m + lane % 16, 2 * step + lane / 16));
#pragma unroll
      for (int pair = 0; pair < Shape::kPairs; ++pair) {
        const int q = gradient_n + Shape::kGradientN * pair;
        if (!kAll && 16 * kElement * q >= row_bytes) break;
        uint32_t b[2][2];
        load_columns<kPrecision, Shape::kColumns>(b, columns, step, q);
        multiply_add_all<kProducts>(gradient, a, b, 2 * pair);
      }
    }
  }
}

}  // namespace fastpixcon
