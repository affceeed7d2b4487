// Stages of info_nce and of the contrast operators.
#pragma once

#include "cuda/host/launch.h"
#include "cuda/host/rows.h"

namespace fastpixcon {

// One loss.
struct Problem {
  bool self, negatives, fixed;
  at::Tensor temperature;
  Rows a, c;  // anchors, contrast set
  Precision precision;
  DeviceLimits limits;

  Problem(const at::Tensor& anchors, at::Tensor anchor_labels, const std::optional<at::Tensor>& contrast,
          const std::optional<at::Tensor>& contrast_labels_, const at::Tensor& temperature_,
          c10::string_view denominator, c10::string_view rows, bool fixed_shift, bool is_sorted);

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

// Gradient of the rows that x was prepared from, [n, D]; of anchors, of contrast rows, or of both if x is y. itself
// [n]: see InfoNCEGradientKernel. Of the rows' dtype or float32.
at::Tensor gradient(const Problem& p, const Rows& x, const Rows& y, const std::optional<at::Tensor>& x_terms,
                    const std::optional<at::Tensor>& y_terms, const std::optional<at::Tensor>& largest, int64_t D,
                    const std::optional<at::Tensor>& along, const std::optional<at::Tensor>& itself,
                    at::ScalarType dtype);

// From partial gradients [splits, n, D_pad] those of the rows, see InfoNCEProjectKernel.
void project(const at::Tensor& d_rows, const Rows& x, const at::Tensor& d_x, const std::optional<at::Tensor>& along);

}  // namespace fastpixcon
