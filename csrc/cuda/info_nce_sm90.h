// Kernels of info_nce for sm_90a alone, for their host code.
#pragma once

#include <cstdint>

#include "cuda/info_nce.h"

namespace fastpixcon {

constexpr int kFactsOfColumn = 4;  // label, weight, pull, sum, see InfoNCETermsKernel

// Rows anew, see PanelSet: of n rows of which those left out become zeros, in tiles of so many columns.
using InfoNCEPanelsKernel = void (*)(const void* rows, const int32_t* labels, const float* terms, void* panels,
                                     float* facts, int N, int N_pad, int row_bytes, int columns);
InfoNCEPanelsKernel info_nce_panels_kernel();
constexpr int kPanelsThreads = 256;  // a block, whole rows; 16 bytes each

// As InfoNCEGradientKernel, of rows of 64, 128 or 256 numbers.
using InfoNCEGradientSm90Kernel = void (*)(PanelSet x, PanelSet y, const int64_t* source, const float* temperature,
                                           const float* largest, void* d_x, int tiles_per_split, bool self,
                                           int denominator, bool partial, const int32_t* itself);
// As InfoNCESumsKernel, with a fixed shift; sums [slots, N]. Block (part, g) has the rows of group g, size_x of them,
// against a part of the columns. Self contrast: of an odd number of groups g with the groups g + p, 0 <= p <= groups /
// 2, are all pairs once; a part is per_part of the p. It adds up the rows into slot `part`; the columns, which are rows
// of the other group, a warpgroup each, into slots from parts + p * (warpgroups) on. Separate: a part is size_y
// columns.
using InfoNCESumsSm90Kernel = void (*)(PanelSet x, PanelSet y, const float* temperature, float* sums, int size_x,
                                       int size_y, int groups, int per_part, bool self, bool apart);
struct SumsSm90Launch {
  InfoNCESumsSm90Kernel kernel;  // null: none for such rows, or not built
  int rows, columns;             // of a tile
  int threads;
  int warpgroups;  // that multiply
  int shared;      // bytes
};
SumsSm90Launch info_nce_sums_sm90(Precision precision, int row_bytes);

struct GradientSm90Launch {
  InfoNCEGradientSm90Kernel kernel;  // null: none for such rows, or not built
  int rows, columns;                 // of a tile
  int threads;
  int shared;  // bytes
};
GradientSm90Launch info_nce_gradient_sm90(Precision precision, int row_bytes);

}  // namespace fastpixcon
