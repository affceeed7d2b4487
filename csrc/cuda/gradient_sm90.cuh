// dL/ds times rows on sm_90a: gradient.cuh by products of warpgroups. 16-bit rows, fixed shift.
//
// A block of 128 rows, 64 a warpgroup, against tiles of columns. A third warpgroup, of one thread, has copies in bulk
// bring rows and tiles, which lie in memory as they shall in shared memory (PanelSet): a few copies a tile, and no map
// of a tensor. A tile is read for both products: S = rows columns^T, and H columns, H = dL/ds in the very registers
// that S came in. S of the next tile is asked for before H columns of this one, so that H of the next is made while
// tensor cores work; the other warpgroup fills what is left.
//
// Of shared memory a product of 64 x 96 logits reads 107 bytes a cycle, one of H and 256 columns 64, of 128 that there
// are. Registers a thread, D = 256: 128 of the gradient, 48 of S, 24 of H.
#pragma once

#include <type_traits>

#include "cuda/gradient_pair.cuh"
#include "cuda/info_nce_sm90.h"
#include "cuda/product.cuh"
#include "cuda/sorted_labels.cuh"
#include "cuda/tiles_sm90.cuh"

namespace fastpixcon {

// Two numbers as one register of the left side of a product.
template <Precision kPrecision>
__device__ uint32_t pair_of(float first, float second) {
  if constexpr (kPrecision == Precision::kBFloat16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __half2 pair = __floats2half2_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}

// One thread: all that comes from memory, in the order in which it is read.
template <typename Tiles>
__device__ void bring(Tiles& shared, const PanelSet& x, const PanelSet& y, int i0, int begin, int end) {
  bring_rows(shared, x, i0);
  Turn<Tiles::kStages> turn;
#pragma unroll 1
  for (int tile = begin; tile < end; ++tile, turn.advance()) bring_tile(shared, y, tile, turn);
}

// The rows first.. of the block: 64 of a warpgroup, of which a thread has two.
template <Precision kPrecision, typename Tiles>
struct RowsOfGroup {
  static constexpr int kColumns = Tiles::kColumns, kSteps = kColumns / 16;
  using Logits = float[kColumns / 2];
  using Slopes = uint32_t[kSteps][4];

  Tiles& shared;
  const PanelSet &x, &y;
  const PositivePairs positives;  // without choices: what is no anchor has a pull of 0, and sums of 0 leave it as it is
  const bool negatives;           // see Denominator
  const int first, row_valid, column_valid;
  const int row;  // and 8 below it
  const Block block;
  float exponent;  // of two, of a product of rows
  const bool self;
  const int32_t* itself;
  float weights[2];

  __device__ RowsOfGroup(Tiles& shared, const PanelSet& x, const PanelSet& y, Denominator denominator, int first,
                         int row_valid, int column_valid, float scale, bool self, const int32_t* itself)
      : shared(shared),
        x(x),
        y(y),
        positives{denominator != Denominator::kAll, true, true, true},
        negatives(denominator == Denominator::kNegatives),
        first(first),
        row_valid(row_valid),
        column_valid(column_valid),
        row(first + threadIdx.x % Tiles::kGroupThreads / 32 * 16 + Lane().g),
        block(x.labels, min(first, x.n - 1), 64, x.n, row_valid),
        exponent(scale * kLog2E),
        self(self),
        itself(itself) {
#pragma unroll
    for (int i = 0; i < 2; ++i) weights[i] = x.terms != nullptr && row + 8 * i < row_valid ? x.terms[row + 8 * i] : 0;
  }

  // Begins H times the columns of a stage.
  __device__ void multiply_slopes(float (&gradient)[Tiles::kWidth / 2], const Slopes& h, int stage) const {
    const uint64_t right = panels_at(shared.columns[stage], kColumns * kPanel);
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
      multiply_add_columns<kPrecision>(gradient, h[step], further(right, step * 16 * kPanel));
    products_commit();
  }

  // S becomes H. Masked: some pairs are of one class, or don't count.
  template <bool kMasked>
  __device__ void slopes(Logits& s, const float (&facts)[kFactsOfColumn][kColumns], int j0) const {
    const int t = Lane().t;
    int32_t row_labels[2];
    Terms of_rows[2];
    int own[2];  // columns that are no pair of the rows
    if constexpr (kMasked) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int at = row + 8 * i;
        const bool here = at < row_valid, anchor = here && x.terms != nullptr;
        row_labels[i] = here ? x.labels[at] : -1;
        of_rows[i] = {0, anchor ? x.terms[x.n + static_cast<int64_t>(at)] : 0,
                      anchor && negatives ? x.terms[2 * static_cast<int64_t>(x.n) + at] : 0};
        own[i] = self ? at : here && itself != nullptr ? itself[at] : -1;
      }
    }
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      const int column = 8 * n + 2 * t;
      // Of this column and the next.
      const auto fact = [&](int which) { return *reinterpret_cast<const float2*>(&facts[which][column]); };
      const auto of = [](const float2& both, int e) { return e == 0 ? both.x : both.y; };
      const float2 labels = fact(0), column_weights = fact(1), pulls = fact(2), sums = fact(3);
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& value = s[4 * n + 2 * i + e];
          const float logit = exp2_fast(value * exponent);
          value = logit * (weights[i] + of(column_weights, e));
          if constexpr (kMasked) {
            const int32_t label = __float_as_int(of(labels, e));
            const Terms of_column{0, of(pulls, e), negatives ? of(sums, e) : 0};
            const float of_one_class = positives.slope<true>(value, logit, of_rows[i], of_column);
            value = row_labels[i] == label ? of_one_class : value;
            value = row_labels[i] != -1 && label != -1 && own[i] != j0 + column + e ? value : 0;
          }
        }
    }
  }

  // As the left side of a product.
  __device__ static void pack(Slopes& h, const Logits& s) {
#pragma unroll
    for (int i = 0; i < kColumns / 4; ++i) h[i / 4][i % 4] = pair_of<kPrecision>(s[2 * i], s[2 * i + 1]);
  }

  // H of S, while the columns of the tile before are multiplied, which has been waited for then. Packed before, H would
  // be registers of a product while products go on, which ptxas makes wait for each other then; and masks need the
  // registers of the H of the tile before.
  __device__ void make_slopes(Slopes& h, Logits& s, int stage, int tile) const {
    const auto& facts = shared.facts[stage];
    const int32_t* const labels = reinterpret_cast<const int32_t*>(facts[0]);
    const int j0 = tile * kColumns, last = min(kColumns, column_valid - j0) - 1;
    const bool apart = key_of(labels[last]) < block.first || block.last < key_of(labels[0]);
    if (block.whole && last == kColumns - 1 && apart) {
      slopes<false>(s, facts, j0);
      products_wait<0>();
      products_given(s);
      pack(h, s);
    } else {
      products_wait<0>();
      slopes<true>(s, facts, j0);
      pack(h, s);
    }
  }

  // The gradient of the rows, but for a factor.
  __device__ void sweep(float (&gradient)[Tiles::kWidth / 2], int begin, int end) const {
    Logits s;
    Slopes h;
    Turn<Tiles::kStages> turn;
    barrier_wait(&shared.rows_there, 0);
    barrier_wait(&shared.there[0], 0);
    products_fence();
    multiply_logits<kPrecision>(s, shared, first % Tiles::kRows, 0);
    products_wait<0>();
    products_given(s);
    for (int tile = begin;; ++tile) {
      make_slopes(h, s, turn.stage, tile);
      // Of a warp all lanes were at the wait for these products, which the four warps of a group make together.
      if (tile > begin && threadIdx.x % 32 == 0) barrier_arrive(&shared.read[turn.before()]);
      if (tile + 1 == end) break;
      const int stage = turn.stage;
      turn.advance();
      barrier_wait(&shared.there[turn.stage], turn.parity);
      products_fence();
      multiply_logits<kPrecision>(s, shared, first % Tiles::kRows, turn.stage);
      multiply_slopes(gradient, h, stage);
      products_wait<1>();
      products_given(s);
    }
    products_fence();
    multiply_slopes(gradient, h, turn.stage);
    products_wait<0>();
    products_given(gradient);
  }
};

template <typename Tiles, typename scalar_t, Precision kPrecision>
__global__ void __launch_bounds__(Tiles::kThreads, 1)
    info_nce_gradient_sm90(const __grid_constant__ PanelSet x, const __grid_constant__ PanelSet y,
                           const int64_t* source, const float* temperature, const float* largest, void* d_x,
                           int tiles_per_split, bool self, int denominator, bool partial, const int32_t* itself) {
  constexpr int kWidth = Tiles::kWidth;
  extern __shared__ __align__(1024) char memory[];
  Tiles& shared = *reinterpret_cast<Tiles*>(memory);
  const int group = of_warp(threadIdx.x / Tiles::kGroupThreads), N = x.n;
  const int i0 = blockIdx.x * Tiles::kRows;
  const int row_valid = count_less(x.labels, N, kLeftOut), column_valid = count_less(y.labels, y.n, kLeftOut);
  const int begin = blockIdx.y * tiles_per_split;
  const int tiles = (column_valid + Tiles::kColumns - 1) / Tiles::kColumns;
  const int end = of_warp(i0 < row_valid ? min(begin + tiles_per_split, tiles) : begin);

  if (threadIdx.x == 0) shared.begin();
  __syncthreads();

  if (group == Tiles::kGroups) {
    keep_registers<24>();
    if (threadIdx.x % Tiles::kGroupThreads == 0 && begin < end) bring(shared, x, y, i0, begin, end);
    return;
  }
  take_registers<240>();
  float scale = 1.0f / *temperature;
  const RowsOfGroup<kPrecision, Tiles> rows(shared, x, y, static_cast<Denominator>(denominator), i0 + 64 * group,
                                            row_valid, column_valid, scale, self, itself);
  float gradient[kWidth / 2] = {};
  if (begin < end) rows.sweep(gradient, begin, end);

  if (largest != nullptr) scale *= *largest * (1.0f / 4096);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = rows.row + 8 * i;
    const float factor = row < row_valid ? scale : 0;
    const int64_t slot = partial                        ? static_cast<int64_t>(blockIdx.y) * N + row
                         : row < N && source != nullptr ? source[row]
                                                        : row;
#pragma unroll
    for (int q = 0; q < kWidth / 16; ++q) {
      const float *const low = gradient + 8 * q + 2 * i, *const high = low + 4;
      const float first[2] = {low[0] * factor, low[1] * factor}, second[2] = {high[0] * factor, high[1] * factor};
      if (partial) {
        store_row(row < N ? static_cast<float*>(d_x) + slot * kWidth : nullptr, q, first, second, kWidth);
      } else {
        store_row(row < N ? static_cast<scalar_t*>(d_x) + slot * kWidth : nullptr, q, first, second, kWidth);
      }
    }
  }
}

}  // namespace fastpixcon
