// What belongs together, as kernels take it. Host code fills these structs from tensors (cuda/host/launch.h), in the
// order of kFields. Parameters of these types are const __grid_constant__: read where they lie, not copied into
// registers.
#pragma once

#include <cstdint>
#include <tuple>

namespace fastpixcon {

// What is in the sum Z of an anchor, and the loss of a positive: log Z - s, or log(1 + Z e^-s) for kNegatives.
enum class Denominator : int { kAll, kNegatives, kDecoupled };

// Rows as one side of a product: sorted by label, those left out (label -1) last, dense and padded with zeros to whole
// panels of 128 bytes, of float32 perhaps in halves, see halves.cuh. What lies in a bank, see ContrastKernel, is dense,
// and in whole panels if in halves.
struct RowSet {
  const void* features;   // [n, row_bytes]
  const int32_t* labels;  // [n]
  const int64_t* source;  // [n], where each row came from; null: from its place
  const float* mining;    // [5, n], what each keeps of its pairs as an anchor; null: all
  const float* terms;     // [3, n], what each is as an anchor, see InfoNCETermsKernel; null: none
  int n, row_bytes;

  static constexpr auto kFields = std::tuple{&RowSet::features, &RowSet::labels, &RowSet::source,   &RowSet::mining,
                                             &RowSet::terms,    &RowSet::n,      &RowSet::row_bytes};
};

// Rows of 16-bit numbers as copies in bulk bring them: in panels of 128 bytes a row, swizzled as in shared memory, see
// piece_at; of tiles of columns the facts, [tiles][kFactsOfColumn][columns of a tile]. Zeros, and label -1, for rows
// left out and those from n on.
struct PanelSet {
  const void* panels;     // [row_bytes / 128][n_pad][128 bytes]
  const float* facts;     // of rows as columns; labels are int32_t
  const int32_t* labels;  // [n]
  const float* terms;     // [3, n], as RowSet has them
  int n, n_pad;           // n_pad: whole tiles, as rows and as columns

  static constexpr auto kFields = std::tuple{&PanelSet::panels, &PanelSet::facts, &PanelSet::labels,
                                             &PanelSet::terms,  &PanelSet::n,     &PanelSet::n_pad};
};

// Which pairs the groups of their rows let be.
enum class Groups : int { kAny, kSame, kOther };

// What pairs of rows x and y weigh, and which groups they are of: of kernels that are compiled for it (ruled).
struct PairRules {
  const float *x_weights,
      *y_weights;  // [4, n] of each as a contrast row: as a positive, as a negative; their logarithms
  const int32_t *x_groups, *y_groups;  // [n]; null: of none
  const float* class_weights;          // [2, classes, classes] of an anchor's and a negative's; logarithms. Null: ones
  int classes;
  int positive_groups, negative_groups;  // see Groups

  static constexpr auto kFields = std::tuple{
      &PairRules::x_weights,     &PairRules::y_weights, &PairRules::x_groups,        &PairRules::y_groups,
      &PairRules::class_weights, &PairRules::classes,   &PairRules::positive_groups, &PairRules::negative_groups};
};

// Labels, or predicted classes, of pixels.
struct LabelMap {
  const void* labels;
  int integer;  // see Integer
  int height, width;
  int64_t stride_b, stride_h, stride_w;

  static constexpr auto kFields =
      std::tuple{&LabelMap::labels,   &LabelMap::integer,  &LabelMap::height,  &LabelMap::width,
                 &LabelMap::stride_b, &LabelMap::stride_h, &LabelMap::stride_w};
};

}  // namespace fastpixcon
