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
// panels of 128 bytes. What lies in a bank, see ContrastKernel, is dense.
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
