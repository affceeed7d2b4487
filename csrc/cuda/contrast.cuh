// A block of anchors against the rows of a contrast set, as in gradient.cuh: the anchors stay in shared memory, tiles
// of columns come in turn, and weights of a tile go through shared memory to be multiplied with the very columns that
// made them. Columns need no order but for the positives. What is not of the batch has no gradient, so the sum of e^s
// and the mean of the rows in it are made at once: 4 FLOP a pair and feature.
#pragma once

#include <type_traits>

#include "cuda/contrast.h"
#include "cuda/math.cuh"
#include "cuda/pairs.cuh"
#include "cuda/partial_sum.cuh"
#include "cuda/product.cuh"
#include "cuda/rules.cuh"
#include "cuda/sorted_labels.cuh"

namespace fastpixcon {

__device__ inline float push_of(float s, float weight, float log_z) { return weight * exp2_fast((s - log_z) * kLog2E); }

// What an anchor brings along, see InfoNCETermsKernel.
struct AnchorTerms {
  float weight, strength, sum;

  __device__ static AnchorTerms load(const float* terms, int64_t n, int64_t i) {
    return {terms[i], terms[n + i], terms[2 * n + i]};
  }
  __device__ float push(float s) const { return push_of(s, weight, sum); }
  __device__ float pull(float s, bool negatives) const { return strength * (negatives ? sigmoid(sum - s) : 1.0f); }
  // Of e^s, sum being 1 / Z.
  __device__ float fixed_pull(float e, bool negatives) const {
    return negatives ? __fdividef(strength, fmaf(e, sum, 1.0f)) : strength;
  }
};

template <typename Shape, Precision kPrecision, bool kRuled>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    contrast_rows(const __grid_constant__ RowSet x, const __grid_constant__ RowSet y, const int32_t* itself,
                  const float* temperature, const float* log_sums, const float* largest,
                  const __grid_constant__ SweepResults out, int D, int ring, int task_, int denominator,
                  const __grid_constant__ PairRules rules) {
  constexpr int kRows = Shape::kRows, kColumns = Shape::kColumns, kThreads = Shape::kThreads, kStages = Shape::kStages;
  constexpr int kM = kRows / 16 / Shape::kLogitM, kN = kColumns / 8 / Shape::kLogitN;  // of the logits, a warp
  constexpr int kGM = kRows / 16 / Shape::kGradientM;                                  // of the products
  constexpr int kElement = element_size(kPrecision), kHBytes = kColumns * kElement;
  // Numbers a column: its label; ruled, its weight as a negative, what it is as an anchor, weight and sum.
  constexpr int kColumnTerms = kRuled ? Shape::kTerms : 1;
  constexpr bool kMines = kRows < 128;  // larger tiles leave no registers for it
  // Of float16, whose numbers would vanish, weights relative to the sum and of positives are larger by 2^12.
  constexpr bool kLifts = kPrecision == Precision::kHalf;
  constexpr float kLift = kLifts ? 12.0f : 0.0f;
  extern __shared__ __align__(128) char shared[];
  const Task task = static_cast<Task>(task_);
  const bool apart = static_cast<Denominator>(denominator) != Denominator::kAll;  // positives are not in the sum
  const bool negatives = static_cast<Denominator>(denominator) == Denominator::kNegatives;
  const float lifted = kLifts && task == Task::kPositives ? 0x1p12f : 1.0f;
  const bool is_fixed_gradient = kRuled && task == Task::kFixedGradient;
  const bool is_gradient = is_fixed_gradient || ((kMines || kRuled) && task == Task::kGradient);
  const bool x_mined = kMines && x.mining != nullptr, y_mined = kMines && y.mining != nullptr;
  const int32_t *const x_labels = x.labels, *const y_labels = y.labels;
  const int N = x.n, M = y.n, row_bytes = x.row_bytes;
  const float *const x_weights = rules.x_weights, *const y_weights = rules.y_weights;
  const GroupRule in_groups(rules);
  const ClassWeights<false> class_factors(rules);
  const ClassWeights<true> class_logarithms(rules);
  const int panels = row_bytes / kPanel, stage_bytes = Shape::stage_bytes(row_bytes);
  char* const stages = shared + kRows * row_bytes;
  char* const h = stages + kStages * stage_bytes;
  int32_t* const stage_labels = reinterpret_cast<int32_t*>(h + kRows * kHBytes);  // [stage][kColumnTerms][kColumns]
  float* const largest_h =
      reinterpret_cast<float*>(stage_labels + kStages * Shape::kTerms * kColumns);  // see store_tile

  const Lane l;
  const int tid = threadIdx.x, warp = tid / 32;
  const int i0 = blockIdx.x * kRows;
  const int row_valid = count_less(x_labels, N, kLeftOut), x_end = min(i0 + kRows, row_valid);
  const Block rows(x_labels, i0, kRows, N, row_valid);
  const float scale = 1.0f / *temperature;

  int begin = 0, end = 0;  // tiles
  if (i0 < row_valid) {
    end = (M + kColumns - 1) / kColumns;
    if (task == Task::kPositives) {
      const ColumnRange range(y_labels, M, ring, rows.first, key_of(x_labels[x_end - 1]));
      begin = range.from / kColumns, end = (range.to + kColumns - 1) / kColumns;
    }
    const int share = (end - begin + gridDim.y - 1) / gridDim.y;
    begin += blockIdx.y * share;
    end = min(begin + share, end);
  }

  const int logit_m = warp / Shape::kLogitN * 16 * kM, logit_n = warp % Shape::kLogitN * kN;  // rows; 8 columns each
  const bool has_logits = warp < Shape::kLogitM * Shape::kLogitN;
  const int gradient_m = warp / Shape::kGradientN * 16 * kGM, gradient_n = warp % Shape::kGradientN;

  // Of the rows of a thread: log Z, or 0; and what totals, seconds and counts are made of.
  float shifts[kM][2], first[kM][2], second[kM][2];
  std::conditional_t<kRuled, float, int32_t> third[kM][2];
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = i0 + logit_m + 16 * m + 8 * i + l.g;
      shifts[m][i] = log_sums != nullptr && row < x_end ? log_sums[x.source == nullptr ? row : x.source[row]] : 0;
      // Of an empty sum, all of whose pairs weigh nothing.
      if (kRuled && task == Task::kSums && shifts[m][i] == -INFINITY) shifts[m][i] = INFINITY;
      // positive_sums leaves nothing of such an anchor's positives; 0 times an infinity would be NaN.
      if (kRuled && task == Task::kPositives && !negatives && shifts[m][i] == -INFINITY) shifts[m][i] = 0;
      first[m][i] = 0, second[m][i] = task == Task::kOnline ? kNothing : 0, third[m][i] = 0;
    }

  const auto load = [&](int tile) {
    if (tile < end) {
      const int stage = tile % kStages, j0 = tile * kColumns;
      copy_rows<kColumns, kThreads>(stages + stage * stage_bytes, static_cast<const char*>(y.features), y.row_bytes, 0,
                                    panels, j0, M);
      if (tid < kColumns) {
        const bool here = j0 + tid < M;
        copy_async_4(stage_labels + stage * kColumnTerms * kColumns + tid, y_labels + (here ? j0 + tid : 0), here);
        if constexpr (kRuled) {
          int32_t* const to = stage_labels + stage * kColumnTerms * kColumns + tid;
          const int64_t j = here ? j0 + tid : 0, size = M;
          copy_async_4(to + kColumns, y_weights + (is_fixed_gradient ? 1 : 3) * size + j, here);
          if (y.terms != nullptr) {
            copy_async_4(to + 2 * kColumns, y.terms + j, here);
            copy_async_4(to + 3 * kColumns, y.terms + 2 * size + j, here);
          }
        }
      }
    }
    copy_async_commit();
  };

  if (begin < end)
    copy_panels<kRows, kThreads>(shared, static_cast<const char*>(x.features), row_bytes, 0, panels, i0, x_end);
  for (int i = 0; i < kStages - 1; ++i) load(begin + i);
  float gradient[kGM][2 * Shape::kPairs][4] = {};
  for (int tile = begin; tile < end; ++tile) {
    copy_async_wait<kStages - 2>();
    __syncthreads();  // the tile is there, and H and the tile before are no longer read
    load(tile + kStages - 1);
    const int j0 = tile * kColumns;
    const char* const columns = stages + tile % kStages * stage_bytes;
    const int32_t* const labels = stage_labels + tile % kStages * kColumnTerms * kColumns;
    const TileLabels keys(labels, kColumns, M - j0);
    const bool no_positives = keys.last < rows.first || rows.last < keys.first;
    if (keys.empty() || (task == Task::kPositives && no_positives)) continue;
    float s[kM][kN][4] = {};  // logits, then H
    if (has_logits) {
      for (int panel = 0; panel < panels; ++panel)
        multiply_panels<kPrecision>(s, shared + panel * kRows * kPanel, logit_m, columns + panel * kColumns * kPanel,
                                    8 * logit_n);
      const auto add = [&](int m, int i, float logit) {  // to the sums; the weight of the column
        if (task == Task::kOnline) {
          PartialSum<false> sum{first[m][i], second[m][i]};
          sum.add(logit);
          first[m][i] = sum.total, second[m][i] = sum.largest;
          return 0.0f;
        }
        const float lift = log_sums != nullptr ? kLift : 0.0f;
        const float e = exp2_fast(fmaf(logit - shifts[m][i], kLog2E, lift));
        first[m][i] += e;
        return e;
      };
      const float* const column_terms = reinterpret_cast<const float*>(labels);
      // Of a tile without masks, whose rows are of one class, and its columns.
      const auto fill_gradient = [&](auto fixed) {
        constexpr bool kFixed = decltype(fixed)::value;
        const ClassWeights<!kFixed> class_weights(rules);
        const float x_w = class_weights.of(rows.first, keys.first), y_w = class_weights.of(keys.first, rows.first);
        // Of the columns as contrast rows; and, with W, as anchors.
        float of_columns[kN][2], column_weights[kN][2], column_log_z[kN][2];
#pragma unroll
        for (int n = 0; n < kN; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float* const of = column_terms + 8 * (logit_n + n) + 2 * l.t + e;
            const bool anchor = y.terms != nullptr;
            of_columns[n][e] = product_of_weights<!kFixed>(of[kColumns], x_w);
            column_weights[n][e] = anchor ? of[2 * kColumns] * (kFixed ? y_w : 1.0f) : 0;
            column_log_z[n][e] = !kFixed && anchor ? of[3 * kColumns] - y_w : INFINITY;
          }
#pragma unroll
        for (int m = 0; m < kM; ++m)
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int row = logit_m + 16 * m + 8 * i + l.g;
            const int64_t at = i0 + row, size = N;
            const float of_row = RowWeights<!kFixed>::load(x_weights, size, at).negative;
            const float weight = x.terms != nullptr ? x.terms[at] : 0;
            const float log_z = !kFixed && x.terms != nullptr ? x.terms[2 * size + at] : INFINITY;
#pragma unroll
            for (int n = 0; n < kN; ++n) {
#pragma unroll
              for (int e = 0; e < 2; ++e) {
                float& value = s[m][n][2 * i + e];
                if constexpr (kFixed) {
                  const float of_both = fmaf(weight, of_columns[n][e], column_weights[n][e] * of_row);
                  value = exp2_fast(value * (scale * kLog2E)) * of_both;
                } else {
                  const float logit = __fmul_rn(value, scale);
                  value = push_of(logit + of_columns[n][e], weight, log_z) +
                          push_of(logit + of_row, column_weights[n][e], column_log_z[n][e]);
                }
              }
            }
          }
      };
      const auto fill_h = [&](auto masked) {
        float column_logarithms[kN][2];
        if constexpr (kRuled && !decltype(masked)::value) {
          const float w = class_logarithms.of(rows.first, keys.first);
#pragma unroll
          for (int n = 0; n < kN; ++n)
#pragma unroll
            for (int e = 0; e < 2; ++e)
              column_logarithms[n][e] = column_terms[kColumns + 8 * (logit_n + n) + 2 * l.t + e] + w;
        }
#pragma unroll
        for (int m = 0; m < kM; ++m)
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int row = logit_m + 16 * m + 8 * i + l.g;
            const bool row_here = i0 + row < x_end;
            int32_t row_label = 0, own_column = -1;
            uint32_t number = 0;
            Kept kept{};
            if (masked && row_here) {
              row_label = x_labels[i0 + row];
              if (itself != nullptr) own_column = itself[i0 + row];
              if (x_mined) kept = Kept::load(x.mining, N, i0 + row);
              if (y_mined) number = number_of(x.source, i0 + row);
            }
#pragma unroll
            for (int n = 0; n < kN; ++n) {
#pragma unroll
              for (int e = 0; e < 2; ++e) {
                float& value = s[m][n][2 * i + e];
                const float product = value, logit = __fmul_rn(product, scale);
                if (!masked) {
                  value = add(m, i, kRuled ? logit + column_logarithms[n][e] : logit);
                  continue;
                }
                value = 0;
                const int column = 8 * (logit_n + n) + 2 * l.t + e, j = j0 + column;
                const bool there = row_here && j < M && labels[column] != -1 && own_column != j;
                if (!there) continue;
                const bool same = labels[column] == row_label;
                if (kRuled && !in_groups.has(same, i0 + row, j)) continue;
                const bool has = !x_mined || kept.has(product, same, number_of(y.source, j));
                if (task == Task::kPositives) {
                  if (!same || !has) continue;
                  const float v = kRuled ? y_weights[j] : 1.0f;
                  third[m][i] += kRuled ? v : 1;
                  if (negatives) {
                    float softplus;
                    softplus_sigmoid(shifts[m][i] - logit, softplus, value);
                    value *= v;
                    first[m][i] += v * softplus;
                    second[m][i] += value;
                  } else {
                    value = v;
                    first[m][i] += v * (shifts[m][i] - logit);
                  }
                } else if (is_gradient) {
                  const bool of_y = y.terms != nullptr &&
                                    ((kRuled && !y_mined) || Kept::load(y.mining, M, j).has(product, same, number));
                  const bool in_sum = !(same && apart);
                  if constexpr (kRuled) {
                    const auto side = [&](const float* terms, int64_t size, int64_t at, const float* weights,
                                          int64_t others, int64_t other, int32_t anchor, int32_t own) {
                      const AnchorTerms of = AnchorTerms::load(terms, size, at);
                      const float v = same ? weights[other] : 0.0f;
                      if (is_fixed_gradient) {
                        const float e = exp2_fast(product * (scale * kLog2E));
                        const auto each = RowWeights<false>::load(weights, others, other);
                        return (in_sum ? of.weight * each.in_sum(same, class_factors, anchor, own) * e : 0) -
                               (same ? v * of.fixed_pull(e, negatives) : 0);
                      }
                      const auto each = RowWeights<true>::load(weights, others, other);
                      return (in_sum ? of.push(logit + each.in_sum(same, class_logarithms, anchor, own)) : 0) -
                             (same ? v * of.pull(logit, negatives) : 0);
                    };
                    if (x.terms != nullptr && has)
                      value += side(x.terms, N, i0 + row, y_weights, M, j, row_label, labels[column]);
                    if (of_y) value += side(y.terms, M, j, x_weights, N, i0 + row, labels[column], row_label);
                  } else {
                    const auto side = [&](const float* terms, int64_t size, int64_t at) {
                      const AnchorTerms of = AnchorTerms::load(terms, size, at);
                      const float pull = !same ? 0 : of.pull(logit, negatives);
                      const float push = !in_sum ? 0 : of.push(logit);
                      return push - pull;
                    };
                    if (x.terms != nullptr && has) value += side(x.terms, N, i0 + row);
                    if (of_y) value += side(y.terms, M, j);
                  }
                } else if (has && !(apart && same)) {
                  float weighted = logit;
                  if constexpr (kRuled)
                    weighted += RowWeights<true>::load(y_weights, M, j)
                                    .in_sum(same, class_logarithms, row_label, labels[column]);
                  value = add(m, i, weighted);
                }
              }
            }
          }
      };
      const bool all_count = rows.whole && keys.whole && (no_positives || (!kRuled && !apart && itself == nullptr));
      const bool of_one_weight = class_factors.table == nullptr || (rows.single() && keys.first == keys.last);
      const bool weighs_plainly = !kRuled || (in_groups.any() && of_one_weight);
      if (!(all_count && !x_mined && !y_mined && task != Task::kPositives && weighs_plainly)) {
        fill_h(std::true_type{});
      } else if (kRuled && is_fixed_gradient) {
        if constexpr (kRuled) fill_gradient(std::true_type{});
      } else if (kRuled && is_gradient) {
        if constexpr (kRuled) fill_gradient(std::false_type{});
      } else {
        fill_h(std::false_type{});
      }
    }
    if (out.products == nullptr) continue;
    store_tile<Shape, kPrecision>(h, largest_h, s, logit_m, logit_n, has_logits, lifted);
    __syncthreads();  // H is there
    float units[kGM][2];
    load_units<Shape, kPrecision>(units, largest_h, gradient_m);
    if (row_bytes == 16 * kElement * Shape::kGradientN * Shape::kPairs) {
      multiply_h<Shape, kPrecision, true>(gradient, units, h, columns, row_bytes, gradient_m, gradient_n);
    } else {
      multiply_h<Shape, kPrecision, false>(gradient, units, h, columns, row_bytes, gradient_m, gradient_n);
    }
  }

  if (out.products != nullptr) {
    const int width = is_gradient ? row_bytes / kElement : D;
    const float factor = !is_gradient ? 1 / lifted : largest == nullptr ? scale : scale * *largest * (1.0f / 4096);
#pragma unroll
    for (int m = 0; m < kGM; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = i0 + gradient_m + 16 * m + 8 * i + l.g;
        const int64_t to = row < N && x.source != nullptr && !is_gradient ? x.source[row] : row;
        float* const at = row < N ? out.products + (static_cast<int64_t>(blockIdx.y) * N + to) * width : nullptr;
#pragma unroll
        for (int pair = 0; pair < Shape::kPairs; ++pair) {
          const auto& low = gradient[m][2 * pair];
          const auto& high = gradient[m][2 * pair + 1];
          const float left[2] = {low[2 * i] * factor, low[2 * i + 1] * factor};
          const float right[2] = {high[2 * i] * factor, high[2 * i + 1] * factor};
          store_row(at, gradient_n + Shape::kGradientN * pair, left, right, width);
        }
      }
  }
  if (is_gradient) return;

  float* const parts = reinterpret_cast<float*>(shared);  // [kLogitN][3][kRows]
  __syncthreads();                                        // the anchors are no longer read
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (task == Task::kOnline) {
        PartialSum<false> sum{first[m][i], second[m][i]};
        sum.add(sum.from_lane(1));
        sum.add(sum.from_lane(2));
        first[m][i] = sum.total, second[m][i] = sum.largest;
      } else {
        first[m][i] = warp_sum<4>(first[m][i]), second[m][i] = warp_sum<4>(second[m][i]);
        third[m][i] = warp_sum<4>(third[m][i]);
      }
      if (!has_logits || l.t != 0) continue;
      float* const to = parts + warp % Shape::kLogitN * 3 * kRows + logit_m + 16 * m + 8 * i + l.g;
      to[0] = first[m][i], to[kRows] = second[m][i],
      to[2 * kRows] = kRuled ? static_cast<float>(third[m][i]) : __int_as_float(third[m][i]);
    }
  __syncthreads();
  if (tid >= kRows || i0 + tid >= N) return;
  PartialSum<false> online = PartialSum<false>::empty();
  float total = 0, weight = 0;
  std::conditional_t<kRuled, float, int32_t> mass = 0;
#pragma unroll
  for (int part = 0; part < Shape::kLogitN; ++part) {
    const float* const from = parts + part * 3 * kRows + tid;
    online.add(PartialSum<false>{from[0], from[kRows]});
    total += from[0], weight += from[kRows], mass += kRuled ? from[2 * kRows] : __float_as_int(from[2 * kRows]);
  }
  const int64_t at = static_cast<int64_t>(blockIdx.y) * N + i0 + tid;
  out.totals[at] = task == Task::kOnline ? online.total : total;
  if (out.seconds != nullptr) out.seconds[at] = task == Task::kOnline ? online.largest : weight;
  if (out.masses != nullptr) out.masses[at] = static_cast<float>(mass);
}

template <typename Shape, Precision kPrecision, bool kRuled = false>
ContrastLaunch contrast_launch(int row_bytes) {
  return {&contrast_rows<Shape, kPrecision, kRuled>, Shape::kRows, Shape::kColumns, Shape::kThreads,
          Shape::shared_bytes(row_bytes, element_size(kPrecision)) + largest_bytes<Shape, kPrecision>()};
}

}  // namespace fastpixcon
