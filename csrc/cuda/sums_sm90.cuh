// Partial sums of e^s on sm_90a, see InfoNCESumsSm90Kernel: info_nce_sums.cuh by products of warpgroups. 16-bit rows,
// fixed shift.
//
// Three warpgroups of 64 rows each; their rows stay while columns come in bulk, as in gradient_sm90.cuh. A stage is
// free when its products are done, and while one warpgroup adds up exponentials the others multiply. A block of 192
// rows asks L2 for 21 bytes a cycle in the time of its tensor cores, one of 128 would for 32, which is all that there
// is.
#pragma once

#include <type_traits>

#include "cuda/info_nce_sm90.h"
#include "cuda/math.cuh"
#include "cuda/partial_sum.cuh"
#include "cuda/sorted_labels.cuh"
#include "cuda/tiles_sm90.cuh"

namespace fastpixcon {

template <int kWidth, int kStages>
struct SumTiles : WarpgroupTiles<kWidth, 96, kStages, 3, false> {
  using Tiles = WarpgroupTiles<kWidth, 96, kStages, 3, false>;
  float parts[2][Tiles::kGroups][4]
             [Tiles::kColumns];  // of columns, by the 16 rows of a warp; of this tile and the last
};

// What a block goes through, in order.
struct SumsOfBlock {
  int row_start, row_end, row_valid, columns, column_valid, size_y, groups, group;
  int begin, end;  // of p, or of parts
  bool self;

  __device__ int column_start(int p) const { return min((self ? (group + p) % groups : p) * size_y, columns); }

  // of_rows(i0) for blocks of rows; of_tile(i0, p, j0, is_diagonal) for tiles of columns from j0 on; after_rows(i0).
  template <int kRows, int kColumns, typename OfRows, typename OfTile, typename AfterRows>
  __device__ void run(const OfRows& of_rows, const OfTile& of_tile, const AfterRows& after_rows) const {
#pragma unroll 1
    for (int i0 = row_start; i0 < row_valid; i0 += kRows) {
      of_rows(i0);
#pragma unroll 1
      for (int p = begin; p < end; ++p) {
        const int start = column_start(p), stop = min(start + size_y, column_valid);
        const int first = self && p == 0 ? i0 : start;  // of the group with itself, what is not above the diagonal
#pragma unroll 1
        for (int j0 = first; j0 < stop; j0 += kColumns) of_tile(i0, p, j0, self && p == 0 && j0 < i0 + kRows);
      }
      after_rows(i0);
    }
  }
};

template <typename Tiles, Precision kPrecision>
__global__ void __launch_bounds__(Tiles::kThreads, 1)
    info_nce_sums_sm90(const __grid_constant__ PanelSet x, const __grid_constant__ PanelSet y, const float* temperature,
                       float* sums, int size_x, int size_y, int groups, int per_part, bool self, bool apart) {
  constexpr int kColumns = Tiles::kColumns, kRows = Tiles::kRows, kN = kColumns / 8;
  using Sum = PartialSum<true>;
  extern __shared__ __align__(1024) char memory[];
  Tiles& shared = *reinterpret_cast<Tiles*>(memory);
  const int group = of_warp(threadIdx.x / Tiles::kGroupThreads), N = x.n, M = y.n, part = blockIdx.x;
  SumsOfBlock block;
  block.row_start = min(static_cast<int>(blockIdx.y) * size_x, N), block.row_end = min(block.row_start + size_x, N);
  block.row_valid = of_warp(min(block.row_end, count_less(x.labels, N, kLeftOut)));
  block.columns = M, block.column_valid = of_warp(count_less(y.labels, M, kLeftOut));
  block.size_y = size_y, block.groups = groups, block.group = blockIdx.y, block.self = self;
  block.begin = self ? part * per_part : part;
  block.end = self ? min(block.begin + per_part, groups / 2 + 1) : part + 1;

  if (threadIdx.x == 0) shared.begin();
  __syncthreads();

  Turn<Tiles::kStages> turn;
  int parity = 0;  // of the rows
  if (group == Tiles::kGroups) {
    if (threadIdx.x % Tiles::kGroupThreads != 0) return;
    block.template run<kRows, kColumns>(
        [&](int i0) {
          barrier_wait(&shared.rows_read, parity ^ 1);
          bring_rows(shared, x, i0);
        },
        [&](int, int, int j0, bool) {
          bring_tile(shared, y, j0 / kColumns, turn);
          turn.advance();
        },
        [&](int) { parity ^= 1; });
    return;
  }

  const Lane l;
  const int t = threadIdx.x % Tiles::kGroupThreads, warp = t / 32, first = 64 * group;
  const auto column_slot = [&](int p) { return (static_cast<int64_t>(gridDim.x) + p * Tiles::kGroups + group) * N; };
  // Sums are begun here, visited or not; those of a column are of one thread, those of a row of one lane.
  for (int p = block.begin; self && p < block.end; ++p)
    for (int j = block.column_start(p) + t; t < kColumns && j < min(block.column_start(p) + size_y, N); j += kColumns)
      sums[column_slot(p) + j] = 0;
  for (int i = block.row_start + threadIdx.x; i < block.row_end; i += Tiles::kGroups * Tiles::kGroupThreads)
    if (i >= block.row_valid) sums[static_cast<int64_t>(part) * N + i] = 0;

  const float exponent = kLog2E / *temperature;  // of two, of a product of rows
  int row = 0, buffer = 0;                       // the first row of the thread, 8 above the other one
  uint32_t row_keys[2], first_key = 0, last_key = 0;
  bool whole = false;
  float row_sums[2];
  block.template run<kRows, kColumns>(
      [&](int i0) {
        row = i0 + first + 16 * warp + l.g;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          row_sums[i] = 0;
          row_keys[i] = row + 8 * i < block.row_valid ? key_of(x.labels[row + 8 * i]) : kLeftOut;
        }
        const Block rows(x.labels, min(i0 + first, N - 1), 64, N, block.row_valid);
        first_key = rows.first, last_key = rows.last, whole = rows.whole;
        barrier_wait(&shared.rows_there, parity);
      },
      [&](int i0, int p, int j0, bool is_diagonal) {
        float s[kColumns / 2];
        barrier_wait(&shared.there[turn.stage], turn.parity);
        products_fence();
        multiply_logits<kPrecision>(s, shared, first, turn.stage);
        const bool is_mine = self && !is_diagonal && t < kColumns && j0 + t < block.columns;
        float* const to = sums + column_slot(p) + j0 + t;
        const float before = is_mine ? *to : 0;
        const Block columns(y.labels, j0, kColumns, block.column_valid, block.column_valid);
        const bool plain =
            whole && columns.whole && !is_diagonal && (last_key < columns.first || columns.last < first_key);
        products_wait<0>();
        products_given(s);
        if (threadIdx.x % 32 == 0) barrier_arrive(&shared.read[turn.stage]);  // the group's products are done
        turn.advance();

        Sum column_sums[2 * kN];
        const auto add_up = [&](auto masked) {
#pragma unroll
          for (int n = 0; n < kN; ++n)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const int column = j0 + 8 * n + 2 * l.t + e;
              uint32_t column_key = kLeftOut;
              if (decltype(masked)::value && column < block.column_valid) column_key = key_of(y.labels[column]);
              float values[2];
#pragma unroll
              for (int i = 0; i < 2; ++i) {
                values[i] = exp2_fast(s[4 * n + 2 * i + e] * exponent);
                if constexpr (decltype(masked)::value) {
                  const bool other = row_keys[i] != column_key, not_itself = !self | (row + 8 * i != column);
                  const bool keep =
                      (row_keys[i] != kLeftOut) & (column_key != kLeftOut) & ((apart & other) | (!apart & not_itself));
                  values[i] = keep ? values[i] : 0;
                }
                row_sums[i] += values[i];
              }
              column_sums[2 * n + e].total = values[0] + values[1];
            }
        };
        if (plain) {
          add_up(std::false_type{});
        } else {
          add_up(std::true_type{});
        }
        if (!self || is_diagonal) return;
        // Over g: of columns 8 n + 2t + e in place 2 n + e a lane keeps three of 24.
        halve<kN>(column_sums, 16);
        halve<kN / 2>(column_sums, 8);
        halve<kN / 4>(column_sums, 4);
        static_assert(kN == 12);
        float* const mine = shared.parts[buffer][group][warp];
#pragma unroll
        for (int i = 0; i < 3; ++i) {
          const int place = 3 * l.g + i;
          mine[8 * (place / 2) + 2 * l.t + place % 2] = column_sums[i].total;
        }
        group_wait(group);
        if (is_mine) {
          float sum = before;
#pragma unroll
          for (int i = 0; i < 4; ++i) sum += shared.parts[buffer][group][i][t];
          *to = sum;
        }
        buffer ^= 1;
      },
      [&](int) {
        if (threadIdx.x % 32 == 0) barrier_arrive(&shared.rows_read);
        parity ^= 1;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float sum = warp_sum<4>(row_sums[i]);
          if (l.t == 0 && row + 8 * i < block.row_valid) sums[static_cast<int64_t>(part) * N + row + 8 * i] = sum;
        }
      });
}

}  // namespace fastpixcon
