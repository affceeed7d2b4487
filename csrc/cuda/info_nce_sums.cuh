// Partial sums of e^s, [slots, N]. Self contrast: of an odd number of groups of rows, the pairs c - p, c with
// 0 <= p <= groups / 2 are all pairs once; block (p, c) computes their tiles once, and adds up the rows of group c - p
// into slot p, the columns, which are rows of group c, into slot groups / 2 + 1 + p. So no two blocks write to one
// place, and blocks that run side by side read the same columns.
#pragma once

#include <type_traits>

#include "cuda/info_nce.h"
#include "cuda/partial_sum.cuh"
#include "cuda/rules.cuh"
#include "cuda/sorted_labels.cuh"
#include "cuda/sweep.cuh"

namespace fastpixcon {

// Stored at once, which costs no bank conflicts.
template <typename Sum>
struct alignas(2 * sizeof(Sum)) Pair {
  Sum first, second;
};

template <int kRows, Precision kPrecision, bool kFixed, bool kRuled>
__global__ void __launch_bounds__(SweepOf<kPrecision, kRows>::kThreads, 256 / SweepOf<kPrecision, kRows>::kThreads)
    info_nce_sums(const void* x, const int32_t* x_labels, const void* y, const int32_t* y_labels,
                  const float* temperature, float* sums, float* maxima, int N, int M, int row_bytes, int size_x,
                  int size_y, int groups, bool self, bool apart, bool resident,
                  const __grid_constant__ PairRules rules) {
  using Tiles = SweepOf<kPrecision, kRows>;
  constexpr int kColumns = Tiles::kColumns, kM = Tiles::kM, kN = Tiles::kN;
  using Sum = PartialSum<kFixed>;
  extern __shared__ __align__(128) char shared[];
  // Of the columns, by the rows of a warp; then of the rows, by its columns.
  __shared__ __align__(16) Sum parts[kRows / 32][kColumns];
  static_assert(Tiles::kAcross * kRows <= kRows / 32 * kColumns);
  const Tiles sweep{static_cast<const char*>(x), static_cast<const char*>(y), row_bytes, resident, shared};
  const int p = blockIdx.x, c = blockIdx.y, tid = threadIdx.x;
  const int group = self ? (c - p + groups) % groups : p;
  const int64_t row_slot = static_cast<int64_t>(self ? p : c) * N;
  const int64_t column_slot = static_cast<int64_t>(gridDim.x + p) * N;
  const int column_start = min(c * size_y, M), column_end = min(column_start + size_y, M);
  const int column_valid = column_start + count_less(y_labels + column_start, column_end - column_start, kLeftOut);
  const int row_start = group * size_x, row_end = min(row_start + size_x, N);
  const int row_valid = row_start + count_less(x_labels + row_start, max(row_end - row_start, 0), kLeftOut);
  const float scale = 1.0f / *temperature;
  using Weights = RowWeights<!kFixed>;
  const GroupRule in_groups(rules);
  const ClassWeights<!kFixed> class_weights(rules);
  const float *const x_weights = rules.x_weights, *const y_weights = rules.y_weights;

  // The sum of every column is begun here, visited or not; each is of one thread.
  for (int j = column_start + tid; self && tid < kColumns && j < column_end; j += kColumns)
    Sum::empty().store(sums, maxima, column_slot + j);

  for (int i0 = row_start; i0 < row_end; i0 += kRows) {
    const Block rows(x_labels, i0, kRows, N, row_valid);
    // Of the group with itself, the square on the diagonal is all rows.
    const int begin = self && group == c ? (i0 - row_start) / kColumns : 0;
    const int end = i0 < row_valid ? (column_valid - column_start + kColumns - 1) / kColumns : begin;
    Sum row_sums[kM][2], before = Sum::empty();
#pragma unroll
    for (int m = 0; m < kM; ++m) row_sums[m][0] = row_sums[m][1] = Sum::empty();
    Block columns = rows;

    sweep.template run<kPrecision>(
        i0, min(i0 + kRows, row_valid), column_start, column_valid, begin, end,
        [&](int tile) {
          const int j0 = column_start + tile * kColumns;
          columns = Block(y_labels, j0, kColumns, column_valid, column_valid);
          if (self && tid < kColumns && j0 + tid < column_end) before = Sum::load(sums, maxima, column_slot + j0 + tid);
        },
        [&](int tile, const float (&s)[kM][kN][4]) {
          const int j0 = column_start + tile * kColumns;
          Sum column_sums[2 * kN];
#pragma unroll
          for (int i = 0; i < 2 * kN; ++i) column_sums[i] = Sum::empty();
          const auto add_up = [&](auto masked) {
            uint32_t row_keys[kM][2];
            Weights row_weights[kM][2];  // of the rows as contrast rows
            // Of a tile without masks: of all its pairs.
            const bool of_one = kRuled && !decltype(masked)::value;
            const float row_w = of_one ? class_weights.of(rows.first, columns.first) : kNoWeight<!kFixed>;
            const float column_w = of_one ? class_weights.of(columns.first, rows.first) : kNoWeight<!kFixed>;
#pragma unroll
            for (int m = 0; m < kM; ++m)
#pragma unroll
              for (int i = 0; i < 2; ++i) {
                const int row = i0 + sweep.row(m, i);
                row_keys[m][i] = decltype(masked)::value && row < row_valid ? key_of(x_labels[row]) : kLeftOut;
                if (kRuled && self && row < row_valid) row_weights[m][i] = Weights::load(x_weights, N, row);
              }
#pragma unroll
            for (int n = 0; n < kN; ++n)
#pragma unroll
              for (int e = 0; e < 2; ++e) {
                const int column = j0 + sweep.column(n, e);
                uint32_t column_key = kLeftOut;
                if (decltype(masked)::value && column < column_valid) column_key = key_of(y_labels[column]);
                Weights column_weights{};
                if (kRuled && column < column_valid) column_weights = Weights::load(y_weights, M, column);
#pragma unroll
                for (int m = 0; m < kM; ++m)
#pragma unroll
                  for (int i = 0; i < 2; ++i) {
                    float value = s[m][n][2 * i + e];
                    value = kFixed ? exp2_fast(value * (scale * kLog2E)) : __fmul_rn(value, scale);
                    if constexpr (decltype(masked)::value) {
                      const bool other = row_keys[m][i] != column_key;
                      const bool not_itself = !self | (i0 + sweep.row(m, i) != column);
                      bool keep = (row_keys[m][i] != kLeftOut) & (column_key != kLeftOut) &
                                  ((apart & other) | (!apart & not_itself));
                      if (kRuled && keep) keep = in_groups.has(!other, i0 + sweep.row(m, i), column);
                      value = keep ? value : kFixed ? 0.0f : kNoLogit;
                      if constexpr (kRuled) {
                        float of_row = kNoWeight<!kFixed>, of_column = kNoWeight<!kFixed>;
                        if (keep) {
                          of_row = column_weights.in_sum(!other, class_weights, row_keys[m][i], column_key);
                          if (self)
                            of_column = row_weights[m][i].in_sum(!other, class_weights, column_key, row_keys[m][i]);
                        }
                        row_sums[m][i].add(value, of_row);
                        column_sums[2 * n + e].add(value, of_column);
                        continue;
                      }
                    } else if constexpr (kRuled) {
                      row_sums[m][i].add(value, product_of_weights<!kFixed>(column_weights.negative, row_w));
                      column_sums[2 * n + e].add(value,
                                                 product_of_weights<!kFixed>(row_weights[m][i].negative, column_w));
                      continue;
                    }
                    row_sums[m][i].add(value);
                    column_sums[2 * n + e].add(value);
                  }
              }
          };
          const bool of_one_weight = class_weights.table == nullptr || (rows.single() && columns.single());
          if (rows.all_negatives(columns) && (!kRuled || (in_groups.any() && of_one_weight))) {
            add_up(std::false_type{});
          } else {
            add_up(std::true_type{});
          }
          if (!self || (group == c && tile == begin)) return;
          // Over g: of columns 8 n + 2t + e in place 2 n + e, lane l keeps columns 2 l and 2 l + 1; where
          // there are half as many it keeps one.
          halve<kN>(column_sums, 16);
          halve<kN / 2>(column_sums, 8);
          halve<kN / 4>(column_sums, 4);
          Sum* const to = &parts[sweep.first_row / 32][sweep.first_column];
          if constexpr (kN == 8) {
            *reinterpret_cast<Pair<Sum>*>(to + 2 * (tid % 32)) = {column_sums[0], column_sums[1]};
          } else {
            static_assert(kN == 4);
            to[8 * (Lane().g / 2) + 2 * Lane().t + Lane().g % 2] = column_sums[0];
          }
          __syncthreads();
          if (tid < kColumns && j0 + tid < column_end) {
#pragma unroll
            for (int i = 0; i < kRows / 32; ++i) before.add(parts[i][tid]);
            before.store(sums, maxima, column_slot + j0 + tid);
          }
        });

    Sum* const of_rows = &parts[0][0];  // [kAcross][kRows]

    __syncthreads();  // the columns have been read
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        row_sums[m][i].add(row_sums[m][i].from_lane(1));
        row_sums[m][i].add(row_sums[m][i].from_lane(2));
        if (tid % 4 == 0) of_rows[sweep.first_column / Tiles::kWarpColumns * kRows + sweep.row(m, i)] = row_sums[m][i];
      }
    __syncthreads();
    if (tid < kRows && i0 + tid < row_end) {
      Sum sum = of_rows[tid];
#pragma unroll
      for (int i = 1; i < Tiles::kAcross; ++i) sum.add(of_rows[i * kRows + tid]);
      sum.store(sums, maxima, row_slot + i0 + tid);
    }
  }
}

}  // namespace fastpixcon
