// Kernels of memory_sums, memory_positives and the contrast operators, for their host code: what info_nce's kernels do
// not, contrast rows that lie in a bank or that mining chooses from. Anchors are sorted by label, those left out (label
// -1) last, their rows dense and padded with zeros to whole panels of 128 bytes; contrast rows need only be dense.
#pragma once

#include <cstdint>

#include "cuda/dtype.h"
#include "cuda/precision.h"
#include "cuda/values.h"

namespace fastpixcon {

enum class Task : int {
  kSums,       // totals: of e^s, or of e^(s - log_sums) if there are; products: of these with the columns
  kOnline,     // totals relative to seconds, a running maximum
  kPositives,  // totals, seconds, masses: loss, weight and number of the positives; products: of what pulls with them
  kGradient,   // products: of dL/ds with the columns, over the temperature, of pairs that mining keeps
  kFixedGradient,  // the same of terms with a fixed shift; ruled
};

// What it leaves, [gridDim.y, N] in sorted order; null: not wanted.
struct SweepResults {
  float *totals, *seconds, *masses;
  float* products;  // [gridDim.y, N, D] at the places where the rows came from; of kGradient [.., N, D_pad], sorted

  static constexpr auto kFields =
      std::tuple{&SweepResults::totals, &SweepResults::seconds, &SweepResults::masses, &SweepResults::products};
};

// A block of anchors x [N] against the columns y [M], whose row_bytes are a multiple of 16, and of which labels of -1
// do not count. They are sorted by label, too, and those of class c are known by it; or, if ring > 0, they are a bank,
// and class c is rows ring * c .. (ring + 1) * c - 1. itself [N]: the place in y of every row, no pair of it, or -1; or
// null. Terms are not fixed; of anchors that have a loss.
using ContrastKernel = void (*)(RowSet x, RowSet y, const int32_t* itself, const float* temperature,
                                const float* log_sums, const float* largest, SweepResults out, int D, int ring,
                                int task, int denominator, PairRules rules);
struct ContrastLaunch {
  ContrastKernel kernel;  // null: rows too wide
  int rows, columns;      // of a tile
  int threads;
  int shared;  // bytes
};
// The largest tiles that fit into so many bytes of shared memory; the largest of all can't mine.
ContrastLaunch contrast_bfloat16(int row_bytes, int shared, bool mined);
ContrastLaunch contrast_float16(int row_bytes, int shared, bool mined);
ContrastLaunch contrast_float32(Precision precision, int row_bytes);
// Under a rule of pairs.
ContrastLaunch contrast_ruled_half(Precision precision, int row_bytes, int shared, bool mined);
ContrastLaunch contrast_ruled_float32(Precision precision, int row_bytes);

constexpr int kContrastThreads = 256;  // of the kernels below; those with D take a warp a row, others a thread

// From slots partial sums, maxima or null, the logarithm of their total at the place where the row came from; and, if
// there are products [slots, N, D], their sum over the total: mean, which may be products itself if there is
// one of them. log_sum may be null.
using LogSumsKernel = void (*)(const float* sums, const float* maxima, const int64_t* source, const float* temperature,
                               const float* products, float* log_sum, float* mean, int N, int D, int slots);
LogSumsKernel log_sums_kernel();

// From partial losses, weights and masses [slots, N] those [N] at the places where the rows came from; and, if there
// are products [slots, N, D], their sum. means: losses and weights over the mass, if there is one. log_sums [N]: where
// -inf, nothing is left of losses and products but what is NaN; or null.
using PositiveSumsKernel = void (*)(const float* losses, const float* weights, const float* masses,
                                    const int64_t* source, const float* products, float* loss, float* weight,
                                    float* mass, float* pull, int N, int D, int slots, bool means,
                                    const float* log_sums);
PositiveSumsKernel positive_sums_kernel();

// mining [5, N] in sorted order: mined [4, N] and the key of the anchor, whose number is its place and `first`.
using MiningKernel = void (*)(const float* mined, const int64_t* seed, const int64_t* source, float* mining, int N,
                              int64_t first, int stream);
MiningKernel mining_kernel();

// places [N]: where in sorted order the rows are.
using PlacesKernel = void (*)(const int64_t* source, int32_t* places, int N);
PlacesKernel places_kernel();

// itself [N]: the place of contrast row `first` and where the row came from; -1 if it has none of M. places: null if
// contrast rows are as they came.
using ItselfKernel = void (*)(const int64_t* source, const int32_t* places, int32_t* itself, int N, int M,
                              int64_t first);
ItselfKernel itself_kernel();

}  // namespace fastpixcon
