// dL/ds times rows: the backward of info_nce, a block of rows against all columns.
//
// The rows stay in shared memory; tiles of columns, whole rows of them, come in turn. H = dL/ds of a tile is made where
// its logits are, in registers, goes through shared memory in the rows' type, and is multiplied with the very columns
// that made it. The gradient of the block stays in registers. Self contrast: H is symmetric, so H x is the whole
// gradient; the triangle would save a quarter of the FLOP, at the price of adding [columns, D] floats a tile to rows of
// other blocks, in turn or without a fixed order.
#pragma once

#include <type_traits>

#include "cuda/convert.cuh"
#include "cuda/info_nce.h"
#include "cuda/math.cuh"
#include "cuda/sorted_labels.cuh"
#include "cuda/tile.cuh"

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

// What an anchor brings along.
struct Terms {
  float weight, pull, sum;
};

// weight * e^s / Z.
__device__ inline float push(float s, float weight, float log_z) { return weight * exp2_fast((s - log_z) * kLog2E); }

// What a positive's logit is pulled by: pull * Z / (Z + e^s), or pull. `sum` is 1 / Z and e = e^s if kFixed, else log Z
// and e = s.
template <bool kFixed>
__device__ float pull(float e, float pull, float sum, bool negatives) {
  if (!negatives) return pull;
  // e^s / Z <= e^80, far from where __fdividef gives up.
  return kFixed ? __fdividef(pull, fmaf(e, sum, 1.0f)) : pull * sigmoid(sum - e);
}

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
  } else {
    *reinterpret_cast<float*>(h + h_piece_at<kRowBytes>(row, 2 * n) + 4 * t) = first;
    *reinterpret_cast<float*>(h + h_piece_at<kRowBytes>(row, 2 * n + 1) + 4 * t) = second;
  }
}

// Columns 16 q .. 16 q + 15 of the rows of a tile of y that piece of 32 bytes `step` of H is for, for two products.
template <Precision kPrecision, int kColumns>
__device__ void load_columns(uint32_t (&b)[2][2], const char* y, int step, int q) {
  const Lane l;
  if constexpr (is_half(kPrecision)) {
    uint32_t both[4];
    const char* const panel = y + q / 4 * (kColumns * kPanel);
    load_matrices_transposed(both, panel + piece_at(16 * step + l.lane % 16, q % 4 * 2 + l.lane / 16));
    b[0][0] = both[0], b[0][1] = both[1], b[1][0] = both[2], b[1][1] = both[3];
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

template <typename Shape, typename scalar_t, Precision kPrecision, bool kFixed>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    info_nce_gradient(const void* x_, const int32_t* x_labels, const float* x_terms, const void* y_,
                      const int32_t* y_labels, const float* y_terms, const int64_t* source, const float* temperature,
                      const float* largest, void* d_x, int N, int M, int D, int row_bytes, int tiles_per_split,
                      bool self, bool negatives, bool partial) {
  constexpr int kRows = Shape::kRows, kColumns = Shape::kColumns, kThreads = Shape::kThreads, kStages = Shape::kStages;
  constexpr int kM = kRows / 16 / Shape::kLogitM, kN = kColumns / 8 / Shape::kLogitN;  // of the logits, a warp
  constexpr int kGM = kRows / 16 / Shape::kGradientM;                                  // of the gradient
  constexpr int kElement = element_size(kPrecision), kHBytes = kColumns * kElement;
  constexpr Precision kProducts = is_half(kPrecision)              ? kPrecision
                                  : kPrecision == Precision::kTf32 ? Precision::kTf32
                                                                   : Precision::kTf32x4;
  extern __shared__ __align__(128) char shared[];
  const int panels = row_bytes / kPanel, stage_bytes = Shape::stage_bytes(row_bytes);
  char* const stages = shared + kRows * row_bytes;
  char* const h = stages + kStages * stage_bytes;
  float* const column_terms = reinterpret_cast<float*>(h + kRows * kHBytes);  // [stage][label, weight, pull, sum][..]

  const char *const x = static_cast<const char*>(x_), *const y = static_cast<const char*>(y_);
  const Lane l;
  const int tid = threadIdx.x, warp = tid / 32;
  const int i0 = blockIdx.x * kRows;
  const int row_valid = count_less(x_labels, N, kLeftOut), column_valid = count_less(y_labels, M, kLeftOut);
  const int x_end = min(i0 + kRows, row_valid);
  const int begin = blockIdx.y * tiles_per_split;
  const int end = i0 < row_valid ? min(begin + tiles_per_split, (column_valid + kColumns - 1) / kColumns) : begin;
  float scale = 1.0f / *temperature;
  const Block rows(x_labels, i0, kRows, N, row_valid);

  const int logit_m = warp / Shape::kLogitN * 16 * kM, logit_n = warp % Shape::kLogitN * kN;  // rows; 8 columns each
  const bool has_logits = warp < Shape::kLogitM * Shape::kLogitN;
  const int gradient_m = warp / Shape::kGradientN * 16 * kGM, gradient_n = warp % Shape::kGradientN;
  const auto terms_of = [](const float* terms, int64_t n, int64_t i) {
    return Terms{terms[i], terms[n + i], terms[2 * n + i]};
  };
  float weights[kM][2], sums[kM][2];
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = i0 + logit_m + 16 * m + 8 * i + l.g;
      const bool here = x_terms != nullptr && row < x_end;
      weights[m][i] = here ? x_terms[row] : 0;
      sums[m][i] = here && !kFixed ? x_terms[2 * static_cast<int64_t>(N) + row] : INFINITY;
    }

  const auto load = [&](int tile) {
    if (tile < end) {
      const int stage = tile % kStages, j0 = tile * kColumns;
      copy_panels<kColumns, kThreads>(stages + stage * stage_bytes, y, row_bytes, 0, panels, j0, column_valid);
      if (tid < kColumns) {
        float* const to = column_terms + stage * Shape::kTerms * kColumns + tid;
        const bool here = j0 + tid < column_valid;
        const int64_t j = here ? j0 + tid : 0;
        copy_async_4(to, y_labels + j, here);
        for (int i = 0; y_terms != nullptr && i < 3; ++i)
          copy_async_4(to + (i + 1) * kColumns, y_terms + i * static_cast<int64_t>(M) + j, here);
      }
    }
    copy_async_commit();
  };

  if (begin < end) copy_panels<kRows, kThreads>(shared, x, row_bytes, 0, panels, i0, x_end);
  for (int i = 0; i < kStages - 1; ++i) load(begin + i);
  float gradient[kGM][2 * Shape::kPairs][4] = {};
  for (int tile = begin; tile < end; ++tile) {
    copy_async_wait<kStages - 2>();
    __syncthreads();  // the tile is there, and H and the tile before are no longer read
    load(tile + kStages - 1);
    const int j0 = tile * kColumns;
    const char* const columns = stages + tile % kStages * stage_bytes;
    const float* const terms = column_terms + tile % kStages * Shape::kTerms * kColumns;
    if (has_logits) {
      float s[kM][kN][4] = {};
      for (int panel = 0; panel < panels; ++panel)
        multiply_panels<kPrecision>(s, shared + panel * kRows * kPanel, logit_m, columns + panel * kColumns * kPanel,
                                    8 * logit_n);
      const int32_t* const labels = reinterpret_cast<const int32_t*>(terms);
      const auto fill_h = [&](auto masked) {
        float column_weights[kN][2], column_sums[kN][2];
#pragma unroll
        for (int n = 0; n < kN; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int column = 8 * (logit_n + n) + 2 * l.t + e;
            column_weights[n][e] = y_terms != nullptr ? terms[kColumns + column] : 0;
            column_sums[n][e] = !kFixed && y_terms != nullptr ? terms[3 * kColumns + column] : INFINITY;
          }
#pragma unroll
        for (int m = 0; m < kM; ++m)
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int row = logit_m + 16 * m + 8 * i + l.g;
            const bool row_here = i0 + row < x_end;
            int32_t row_label = 0;
            Terms of_row{0, 0, 0};
            if (masked && row_here) {
              row_label = x_labels[i0 + row];
              if (x_terms != nullptr) of_row = terms_of(x_terms, N, i0 + row);
            }
#pragma unroll
            for (int n = 0; n < kN; ++n) {
              float values[2];
#pragma unroll
              for (int e = 0; e < 2; ++e) {
                const float product = s[m][n][2 * i + e];
                const float logit = kFixed ? exp2_fast(product * (scale * kLog2E)) : __fmul_rn(product, scale);
                if constexpr (kFixed) {
                  values[e] = logit * (weights[m][i] + column_weights[n][e]);
                } else {
                  values[e] =
                      push(logit, weights[m][i], sums[m][i]) + push(logit, column_weights[n][e], column_sums[n][e]);
                }
                if (masked) {
                  const int column = 8 * (logit_n + n) + 2 * l.t + e;
                  if (row_here && row_label == labels[column]) {
                    float pulled = 0;
                    if (x_terms != nullptr) pulled += pull<kFixed>(logit, of_row.pull, of_row.sum, negatives);
                    if (y_terms != nullptr)
                      pulled +=
                          pull<kFixed>(logit, terms[2 * kColumns + column], terms[3 * kColumns + column], negatives);
                    values[e] = negatives ? -pulled : values[e] - pulled;
                  }
                  const bool here = row_here && j0 + column < column_valid && !(self && i0 + row == j0 + column);
                  values[e] = here ? values[e] : 0;
                }
              }
              store_h<kPrecision, kHBytes>(h, row, logit_n + n, l.t, values[0], values[1]);
            }
          }
      };
      const int last = min(kColumns, column_valid - j0) - 1;
      const bool apart = key_of(labels[last]) < rows.first || rows.last < key_of(labels[0]);
      if (rows.whole && last == kColumns - 1 && apart) {
        fill_h(std::false_type{});
      } else {
        fill_h(std::true_type{});
      }
    }
    __syncthreads();  // H is there
    const auto add_products = [&](auto all) {
#pragma unroll
      for (int step = 0; step < kHBytes / 32; ++step) {
        uint32_t a[kGM][4];
#pragma unroll
        for (int m = 0; m < kGM; ++m)
          load_matrices(a[m], h + h_piece_at<kHBytes>(gradient_m + 16 * m + l.lane % 16, 2 * step + l.lane / 16));
#pragma unroll
        for (int pair = 0; pair < Shape::kPairs; ++pair) {
          const int q = gradient_n + Shape::kGradientN * pair;
          if (!all && 16 * kElement * q >= row_bytes) break;
          uint32_t b[2][2];
          load_columns<kPrecision, kColumns>(b, columns, step, q);
          multiply_add_all<kProducts>(gradient, a, b, 2 * pair);
        }
      }
    };
    // A choice inside would keep the loads of a product from being begun during the one before.
    if (row_bytes == 16 * kElement * Shape::kGradientN * Shape::kPairs) {
      add_products(std::true_type{});
    } else {
      add_products(std::false_type{});
    }
  }

  if (largest != nullptr) scale *= *largest * (1.0f / 4096);
  const int D_pad = row_bytes / kElement;
#pragma unroll
  for (int m = 0; m < kGM; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = i0 + gradient_m + 16 * m + 8 * i + l.g;
      const float factor = row < x_end ? scale : 0;
      const int64_t slot = partial                        ? static_cast<int64_t>(blockIdx.y) * N + row
                           : row < N && source != nullptr ? source[row]
                                                          : row;
#pragma unroll
      for (int pair = 0; pair < Shape::kPairs; ++pair) {
        const int q = gradient_n + Shape::kGradientN * pair;
        const auto& low = gradient[m][2 * pair];
        const auto& high = gradient[m][2 * pair + 1];
        const float first[2] = {low[2 * i] * factor, low[2 * i + 1] * factor};
        const float second[2] = {high[2 * i] * factor, high[2 * i + 1] * factor};
        if (partial) {
          store_row(row < N ? static_cast<float*>(d_x) + slot * D_pad : nullptr, q, first, second, D_pad);
        } else {
          store_row(row < N ? static_cast<scalar_t*>(d_x) + slot * D : nullptr, q, first, second, D);
        }
      }
    }
}

template <typename Shape, typename scalar_t, Precision kPrecision, bool kFixed>
GradientLaunch gradient_launch(int row_bytes) {
  return {&info_nce_gradient<Shape, scalar_t, kPrecision, kFixed>, Shape::kRows, Shape::kColumns, Shape::kThreads,
          Shape::shared_bytes(row_bytes, element_size(kPrecision))};
}

}  // namespace fastpixcon
