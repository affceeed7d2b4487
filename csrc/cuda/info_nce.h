// Kernels of info_nce, for their host code. Rows are sorted by label, those left out (label -1) last, dense and padded
// with zeros to whole panels of 128 bytes.
#pragma once

#include <cstdint>

#include "cuda/dtype.h"
#include "cuda/precision.h"
#include "cuda/values.h"

namespace fastpixcon {

// Rows in sorted order, unit if inv_norm, [N, D_pad] of what products of this precision take, and their labels. values:
// the labels in order, which are then ranked as 2 * (how many of the n_classes classes are less), odd for those among
// the classes. row_labels null: rows only, zeros where the label is -1.
using PrepareRowsKernel = void (*)(const void* x, const int32_t* labels, const int64_t* source, const int64_t* values,
                                   const int64_t* classes, void* rows, int32_t* row_labels, float* inv_norm, int N,
                                   int n_classes, int D, int D_pad, int64_t stride_n, int64_t stride_d);
PrepareRowsKernel prepare_rows_kernel(Dtype dtype, Precision precision);

// sums and maxima [slots, N], without positives if apart; rows in groups of size_x, columns in groups of size_y.
using InfoNCESumsKernel = void (*)(const void* x, const int32_t* x_labels, const void* y, const int32_t* y_labels,
                                   const float* temperature, float* sums, float* maxima, int N, int M, int row_bytes,
                                   int size_x, int size_y, int groups, bool self, bool apart, bool resident,
                                   PairRules rules);
// For blocks of 64 rows or, of 16-bit numbers, of 128.
// Ruled: of 64.
InfoNCESumsKernel info_nce_sums_kernel(Precision precision, bool fixed, int rows);
InfoNCESumsKernel info_nce_sums_ruled(Precision precision, bool fixed);

// Results [N], at the places where the rows came from.
using InfoNCEPositivesKernel = void (*)(const void* x, const int32_t* x_labels, const void* y, const int32_t* y_labels,
                                        const int64_t* source, const float* temperature, const float* sums,
                                        const float* maxima, float* loss, float* log_sum, float* weight, float* mass,
                                        int N, int M, int slots, int row_bytes, bool self, bool negatives,
                                        bool resident);
InfoNCEPositivesKernel info_nce_positives_kernel(Precision precision, bool fixed);

// Columns of a tile of both of them, rows of a block of the latter; and the threads and shared memory of blocks of so
// many rows.
constexpr int kSweepColumns = 128, kPositivesRows = 64;
constexpr int sweep_threads(Precision precision, int rows) { return (precision == Precision::kHalfx3 ? 4 : 2) * rows; }
int sweep_shared_bytes(int rows, int row_bytes, bool resident);

// Of every row as an anchor, in sorted order, [3, N]: the weight of e^s (fixed) or of e^(s - log Z) in dL/ds, the pull
// of each positive, and 1 / Z (fixed) or log Z. d_loss is float32; largest: of |d_loss|, or all of them, which is then
// scaled to 4096.
using InfoNCETermsKernel = void (*)(const float* d_loss, const float* log_sum, const float* weight, const float* mass,
                                    const int64_t* source, const float* largest, float* terms, int N, int64_t stride_d,
                                    bool negatives, bool fixed);
InfoNCETermsKernel info_nce_terms_kernel();

// d_x: the gradient of the rows of x, at the places where they came from [N, D]; or, partial, of a split of the columns
// in sorted order, float32 [splits, N, D_pad]. itself [N]: the place in y of every row, which is of its class and
// no pair of it, or -1; or null.
using InfoNCEGradientKernel = void (*)(const void* x, const int32_t* x_labels, const float* x_terms, const void* y,
                                       const int32_t* y_labels, const float* y_terms, const int64_t* source,
                                       const float* temperature, const float* largest, void* d_x, int N, int M, int D,
                                       int row_bytes, int tiles_per_split, bool self, int denominator, bool partial,
                                       const int32_t* itself);
struct GradientLaunch {
  InfoNCEGradientKernel kernel;  // null: rows too wide
  int rows, columns;             // of a tile
  int threads;
  int shared;  // bytes
};
constexpr int kGradientMaxWidth = 512;
// The largest tiles that fit into so many bytes of shared memory.
GradientLaunch info_nce_gradient_bfloat16(bool fixed, int row_bytes, int shared);
GradientLaunch info_nce_gradient_float16(bool fixed, int row_bytes, int shared);
GradientLaunch info_nce_gradient_halves(int row_bytes);   // of float32 in halves, fixed
GradientLaunch info_nce_gradient_float32(int row_bytes);  // without tensor cores, not fixed

// weights [4, N] in sorted order, see PairRules, from v and u where the rows come from (null: ones), of a bank of rings
// of so many rows from u of its classes; sorted_groups [N] from groups, or both null. classes: labels are below, or 0.
using RowRulesKernel = void (*)(const float* v, const float* u, const int32_t* groups, const int64_t* source,
                                const int32_t* labels, float* weights, int32_t* sorted_groups, int N, int ring,
                                int classes);
RowRulesKernel row_rules_kernel();

// From the partial gradients those of the rows as they came, [N, D], of raw rows through their normalisation
// (inv_norm); and of every row the product with its gradient, whose sum is the temperature's (along).
using InfoNCEProjectKernel = void (*)(const float* d_rows, const void* x, const int64_t* source, const float* inv_norm,
                                      void* d_x, float* along, int N, int D, int D_pad, int splits);
// x is prepared for products of this precision; d_x is of the dtype of the rows that came, or float32.
InfoNCEProjectKernel info_nce_project_kernel(Precision precision, Dtype out);

// Threads a block and rows a block of the kernels that take a warp a row.
constexpr int kRowwiseThreads = 256, kRowwiseRows = 8;

}  // namespace fastpixcon
