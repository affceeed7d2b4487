// Stages of info_nce and of the contrast operators.
#pragma once

#include "cuda/host/launch.h"
#include "cuda/host/rows.h"
#include "cuda/host/rules.h"
#include "cuda/host/sweep.h"

namespace fastpixcon {

// One loss.
struct Problem {
  bool self, fixed;
  int64_t D;  // numbers a row, as they came
  Denominator denominator;
  at::Tensor temperature;
  Ruling ruling;
  Prepared a, c;  // anchors, contrast set
  Precision precision;
  DeviceLimits limits;

  Problem(const Rows& anchors, const std::optional<Rows>& contrast, const Rule& rule, c10::string_view rows);

  bool negatives() const { return denominator == Denominator::kNegatives; }
  bool apart() const { return denominator != Denominator::kAll; }  // positives are not in the sum
  // Whether dL/ds becomes float16, which wants it scaled.
  bool scales() const { return precision == Precision::kHalf || precision == Precision::kHalfx3; }
  // Whether a block keeps its rows in shared memory while columns go by.
  bool resident(int rows) const;
  int shared(int rows) const;
  int row_bytes() const { return static_cast<int>(a.row_bytes()); }
};

struct Sums {
  at::Tensor sums;                   // [slots, N] partial sums of exponentials
  std::optional<at::Tensor> maxima;  // [slots, N], what they are relative to; none: to 0
};

Sums partial_sums(const Problem& p);

// Rows as anchors against others.
Sweep sweep_of(const Problem& p, const Prepared& x, const Prepared& y, int64_t D);

// What the rows and the columns of a gradient are as anchors, [3, n] each; none: they are none.
struct Sides {
  std::optional<at::Tensor> x_terms, y_terms;
  std::optional<at::Tensor> largest;  // [], by which terms were divided, see largest_of; none: they were not

  Sides swapped() const { return {y_terms, x_terms, largest}; }
  // Both are anchors with the same terms.
  bool same() const { return x_terms.has_value() && y_terms.has_value() && x_terms->is_same(*y_terms); }
};

// [], the largest |d_loss| [n]; where all are one and the same, it, whatever its sign: dividing and multiplying undo
// it.
at::Tensor largest_of(const at::Tensor& d_loss);

// [3, n] of anchors, see InfoNCETermsKernel.
at::Tensor terms_of(const Prepared& rows, const Statistics& of, const std::optional<at::Tensor>& largest,
                    bool negatives, bool fixed);

// Gradient of the rows that x was prepared from, [n, D]; of anchors, of contrast rows, or of both if x is y. itself
// [n]: see InfoNCEGradientKernel. Of the rows' dtype or float32.
at::Tensor gradient(const Problem& p, const Prepared& x, const Prepared& y, const Sides& sides, int64_t D,
                    const std::optional<at::Tensor>& along, const std::optional<at::Tensor>& itself,
                    at::ScalarType dtype);

// From partial gradients [splits, n, D_pad] those of the rows, see InfoNCEProjectKernel.
void project(const at::Tensor& d_rows, const Prepared& x, const at::Tensor& d_x,
             const std::optional<at::Tensor>& along);

}  // namespace fastpixcon
