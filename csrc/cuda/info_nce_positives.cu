// log Z of a block of rows from its partial sums, then the means over their positives: a sweep over the tiles of their
// classes only.
#include "cuda/device_check.cuh"
#include "cuda/info_nce.h"
#include "cuda/partial_sum.cuh"
#include "cuda/sorted_labels.cuh"
#include "cuda/sweep.cuh"
#include "cuda/warp.cuh"

namespace fastpixcon {

int sweep_shared_bytes(int rows, int row_bytes, bool resident) {
  return rows == 128 ? Sweep<128>::shared_bytes(row_bytes, resident) : Sweep<64>::shared_bytes(row_bytes, resident);
}
static_assert(kSweepColumns == Sweep<64>::kColumns);
template <Precision kPrecision>
using PositivesTiles = SweepOf<kPrecision, kPositivesRows>;

template <Precision kPrecision, bool kFixed>
__global__ void __launch_bounds__(PositivesTiles<kPrecision>::kThreads, 256 / PositivesTiles<kPrecision>::kThreads)
    info_nce_positives(const void* x, const int32_t* x_labels, const void* y, const int32_t* y_labels,
                       const int64_t* source, const float* temperature, const float* sums, const float* maxima,
                       float* loss, float* log_sum, float* weight, float* mass, int N, int M, int slots, int row_bytes,
                       bool self, bool negatives, bool resident) {
  using Tiles = PositivesTiles<kPrecision>;
  static_assert(Tiles::kThreads == sweep_threads(kPrecision, Tiles::kRows));
  constexpr int kRows = Tiles::kRows, kColumns = Tiles::kColumns, kM = Tiles::kM;
  extern __shared__ __align__(128) char shared[];
  __shared__ float log_sums[kRows];
  __shared__ float losses[Tiles::kAcross][kRows], weights[Tiles::kAcross][kRows];
  __shared__ int32_t counts[Tiles::kAcross][kRows];
  const Tiles sweep{static_cast<const char*>(x), static_cast<const char*>(y), row_bytes, resident, shared};
  const int i0 = blockIdx.x * kRows, tid = threadIdx.x;
  const int row_valid = count_less(x_labels, N, kLeftOut);

  if (tid < kRows) {
    PartialSum<kFixed> sum = PartialSum<kFixed>::empty();
    for (int slot = 0; i0 + tid < N && slot < slots; ++slot)
      sum.add(PartialSum<kFixed>::load(sums, maxima, static_cast<int64_t>(slot) * N + i0 + tid));
    const bool empty = sum.total == 0 || i0 + tid >= row_valid;
    log_sums[tid] = empty ? -INFINITY : sum.log();
  }

  int begin = 0, end = 0, column_valid = 0;
  if (i0 < row_valid) {
    const uint32_t first = key_of(x_labels[i0]), last = key_of(x_labels[min(i0 + kRows, row_valid) - 1]);
    column_valid = count_less(y_labels, M, kLeftOut);
    begin = count_less(y_labels, column_valid, first) / kColumns;
    end = (count_less(y_labels, column_valid, last + 1) + kColumns - 1) / kColumns;
  }
  float row_losses[kM][2] = {}, row_weights[kM][2] = {};
  int32_t row_counts[kM][2] = {};
  FASTPIXCON_DEVICE_CHECK(is_temperature(*temperature), "temperature: not a number > 0 from 2^-126 on");
  const float scale = 1.0f / *temperature;
  sweep.run<kPrecision>(
      i0, min(i0 + kRows, row_valid), 0, column_valid, begin, end, [](int) {},
      [&](int tile, const float (&s)[kM][Tiles::kN][4]) {
#pragma unroll
        for (int n = 0; n < Tiles::kN; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int column = tile * kColumns + sweep.column(n, e);
            if (column >= column_valid) continue;
            const int32_t label = y_labels[column];
#pragma unroll
            for (int m = 0; m < kM; ++m)
#pragma unroll
              for (int i = 0; i < 2; ++i) {
                const int row = i0 + sweep.row(m, i);
                if (row >= row_valid || x_labels[row] != label || (self && row == column)) continue;
                const float logit = __fmul_rn(s[m][n][2 * i + e], scale);
                ++row_counts[m][i];
                if (negatives) {
                  float softplus, share;
                  softplus_sigmoid(log_sums[sweep.row(m, i)] - logit, softplus, share);
                  row_losses[m][i] += softplus;
                  row_weights[m][i] += share;
                } else {
                  row_losses[m][i] += logit;
                }
              }
          }
      });
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float loss_sum = warp_sum<4>(row_losses[m][i]), weight_sum = warp_sum<4>(row_weights[m][i]);
      const int32_t count = warp_sum<4>(row_counts[m][i]);
      if (tid % 4 != 0) continue;
      const int part = sweep.first_column / Tiles::kWarpColumns, row = sweep.row(m, i);
      losses[part][row] = loss_sum, weights[part][row] = weight_sum, counts[part][row] = count;
    }
  __syncthreads();
  if (tid >= kRows || i0 + tid >= N) return;
  const int64_t to = source == nullptr ? i0 + tid : source[i0 + tid];
  float loss_sum = losses[0][tid], weight_sum = weights[0][tid];
  int32_t count = counts[0][tid];
#pragma unroll
  for (int part = 1; part < Tiles::kAcross; ++part)
    loss_sum += losses[part][tid], weight_sum += weights[part][tid], count += counts[part][tid];
  const float mean = 1.0f / static_cast<float>(max(count, 1)), log_z = log_sums[tid];
  const float average = loss_sum * mean;
  // Of an empty sum nothing, but of a positive that is NaN.
  loss[to] = count == 0 ? 0.0f : negatives ? average : log_z == -INFINITY ? average * 0.0f : log_z - average;
  log_sum[to] = log_z;
  weight[to] = count == 0 ? 0.0f : weight_sum * mean;
  mass[to] = static_cast<float>(count);
}

InfoNCEPositivesKernel info_nce_positives_kernel(Precision precision, bool fixed) {
  switch (precision) {
    case Precision::kBFloat16:
      return fixed ? &info_nce_positives<Precision::kBFloat16, true> : &info_nce_positives<Precision::kBFloat16, false>;
    case Precision::kHalf:
      return fixed ? &info_nce_positives<Precision::kHalf, true> : &info_nce_positives<Precision::kHalf, false>;
    case Precision::kHalfx3: return &info_nce_positives<Precision::kHalfx3, true>;
    default: return &info_nce_positives<Precision::kFloat, false>;
  }
}

}  // namespace fastpixcon
