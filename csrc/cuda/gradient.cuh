// dL/ds times rows: the backward of info_nce, a block of rows against all columns.
//
// The rows stay in shared memory; tiles of columns, whole rows of them, come in turn. H = dL/ds of a tile is made where
// its logits are, in registers, goes through shared memory as the rows do, and is multiplied with the very columns that
// made it. The gradient of the block stays in registers. Self contrast: H is symmetric, so H x is the whole
// gradient; the triangle would save a quarter of the FLOP, at the price of adding [columns, D] floats a tile to rows of
// other blocks, in turn or without a fixed order.
#pragma once

#include <type_traits>

#include "cuda/gradient_pair.cuh"
#include "cuda/info_nce.h"
#include "cuda/product.cuh"
#include "cuda/sorted_labels.cuh"
#include "cuda/values.h"

namespace fastpixcon {

template <typename Shape, typename scalar_t, Precision kPrecision, bool kFixed>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    info_nce_gradient(const void* x_, const int32_t* x_labels, const float* x_terms, const void* y_,
                      const int32_t* y_labels, const float* y_terms, const int64_t* source, const float* temperature,
                      const float* largest, void* d_x, int N, int M, int D, int row_bytes, int tiles_per_split,
                      bool self, int denominator, bool partial, const int32_t* itself) {
  constexpr int kRows = Shape::kRows, kColumns = Shape::kColumns, kThreads = Shape::kThreads, kStages = Shape::kStages;
  constexpr int kM = kRows / 16 / Shape::kLogitM, kN = kColumns / 8 / Shape::kLogitN;  // of the logits, a warp
  constexpr int kGM = kRows / 16 / Shape::kGradientM;                                  // of the gradient
  constexpr int kElement = element_size(kPrecision), kHBytes = kColumns * kElement;
  extern __shared__ __align__(128) char shared[];
  const int panels = row_bytes / kPanel, stage_bytes = Shape::stage_bytes(row_bytes);
  char* const stages = shared + kRows * row_bytes;
  char* const h = stages + kStages * stage_bytes;
  float* const column_terms = reinterpret_cast<float*>(h + kRows * kHBytes);  // [stage][label, weight, pull, sum][..]

  const PositivePairs positives{static_cast<Denominator>(denominator) != Denominator::kAll,
                                static_cast<Denominator>(denominator) == Denominator::kNegatives, x_terms != nullptr,
                                y_terms != nullptr};
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
              if (!kFixed) of_row.sum = sums[m][i];
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
                    Terms of_column{0, 0, 0};
                    if (y_terms != nullptr)
                      of_column = {0, terms[2 * kColumns + column],
                                   kFixed ? terms[3 * kColumns + column] : column_sums[n][e]};
                    values[e] = positives.slope<kFixed>(values[e], logit, of_row, of_column);
                    const bool is_own =
                        self ? i0 + row == j0 + column : itself != nullptr && itself[i0 + row] == j0 + column;
                    if (is_own) values[e] = 0;
                  }
                  const bool here = row_here && j0 + column < column_valid;
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
      float ones[kGM][2];  // H is scaled already, by `largest`
#pragma unroll
      for (int m = 0; m < kGM; ++m) ones[m][0] = ones[m][1] = 1;
      multiply_h<Shape, kPrecision, decltype(all)::value>(gradient, ones, h, columns, row_bytes, gradient_m,
                                                          gradient_n);
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
