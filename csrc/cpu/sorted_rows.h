// A set of rows as the tile kernels want them: without those of label -1, sorted by class, unit if asked for,
// in float, padded, and packed for what they are in products.
#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>
#include <vector>

#include "common/values.h"
#include "cpu/tile.h"

namespace fastpixcon::cpu {

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

struct SortedRows {
  int64_t n = 0;                 // rows that take part
  std::vector<int64_t> source;   // [n] their place in the input
  std::vector<int64_t> label;    // [n] ascending
  std::vector<double> inv_norm;  // [n] 1 / |x|, 0 for a row without direction; empty unless normalised
  at::Tensor rows, packed[3];    // float storage of the operand
  bool bf16 = false;             // unit rows are rounded to it, and products read what is packed alone
  Operand operand;

  const float* row(int64_t i) const { return operand.rows + i * operand.stride; }

  // Of x [N, D], whose rows are dense, the sorted rows [first, first + count) into rows [count][stride], zeros beyond
  // n.
  void gather(const at::Tensor& x, int64_t first, int64_t count, float* rows);

  // Before products that have the rows in that part.
  void pack(Part part, const TileKernels& kernels);

  // Before products that read what is packed alone; after the last product.
  void forget_rows() {
    rows.reset();
    operand.rows = nullptr;
  }
  void forget_packed() {
    for (int part = 0; part < 3; ++part) {
      packed[part].reset();
      operand.packed[part] = nullptr;
    }
  }
};

// Of float32, bfloat16 or float16; in_order: none is gathered yet.
SortedRows sort_rows(const Rows& rows, bool normalize, const TileKernels& kernels);
SortedRows in_order(const Rows& rows, bool normalize, const TileKernels& kernels);

// Rows of x whose numbers lie side by side.
at::Tensor with_dense_rows(const at::Tensor& x);

// A few rows of a set at a time, for products that have them on the left and, if `values`, multiply them.
class SomeRows {
 public:
  SomeRows(SortedRows& set, const at::Tensor& x, int64_t most, bool values, const TileKernels& kernels);

  // Sorted rows [first, first + m), counted from 0.
  const Operand& take(int64_t first, int64_t m);

 private:
  SortedRows& set_;
  const at::Tensor& x_;  // [N, D], its rows dense
  const TileKernels& kernels_;
  at::Tensor rows_, packed_[3];
  Operand operand_;
};

// Gradient of the input x, [N, D] in its order: `scale` * d_rows [n][stride], through the normalisation. In the dtype
// of x or in float; rows may be forgotten, and what was packed.
at::Tensor unsort_gradient(const SortedRows& set, const at::Tensor& x, const float* d_rows, double scale,
                           at::ScalarType dtype);
// The same of sorted rows [first, last) alone, whose d_rows these are, into d_x [N, D]; x has dense rows.
void unsort_rows(const SortedRows& set, const at::Tensor& x, int64_t first, int64_t last, const float* d_rows,
                 double scale, const at::Tensor& d_x);

// [n] of every sorted row of `set` its place among the sorted rows of `among`, of which there were M, where its number
// is `diagonal` more; -1: none.
std::vector<int32_t> places(const SortedRows& set, const SortedRows& among, int64_t M, int64_t diagonal);

// A class that anchors or contrast rows have, and where.
struct ClassRange {
  int64_t anchor_first, anchor_last, contrast_first, contrast_last;
};

// The classes of both sets in order, and the class of each sorted row.
struct Classes {
  std::vector<ClassRange> range;
  std::vector<int32_t> of_anchor, of_contrast;
};
Classes match_classes(const SortedRows& anchors, const SortedRows& contrast);

}  // namespace fastpixcon::cpu
