// The steps of a loss over one contrast set, or over one of several: sums, positives, gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "cpu/problem.h"

namespace fastpixcon::cpu {

// log Z of every sorted row, nats; -inf for an empty sum. `columns` are of contrast rows as anchors, if mutual.
struct LogSums {
  std::vector<double> rows, columns;
};
LogSums log_sums(const Problem& p);

// Sums over the positives of sorted rows.
struct Positives {
  std::vector<double> loss, weight, mass;

  explicit Positives(int64_t n) : loss(n), weight(n), mass(n) {}
};
struct PositivesOfBoth {
  Positives rows, columns;
};
// Given log Z of all contrast sets, nats.
PositivesOfBoth positives(const Problem& p, const LogSums& log_z);

struct Gradients {
  at::Tensor rows, columns;  // [count][stride] of sorted rows, in units of `scale`; what is not wanted is empty
  double scale;
  double along;  // sum G_ij s_ij in units of scale * inverse; if wanted
};
// `columns`: of contrast rows as anchors, if mutual. Forgets rows that neither products nor `along` read.
Gradients gradients(Problem& p, const Statistics& rows, const Statistics* columns, bool wants_rows, bool wants_columns,
                    bool wants_along);

// Of separate contrast rows at once, or of self contrast, whose tiles are kept, so that every product is computed once:
// the mean loss of each sorted anchor over its positives and their mass, given d_loss [n].
struct LossesAndGradients {
  Positives positives;   // `loss`: of a row; `weight` is not
  at::Tensor d_anchors;  // [N, D] of all anchors as they came, of dtype `waiting`; what is not wanted is empty
  Gradients d;           // without rows
};
LossesAndGradients losses_and_gradients_of_self(Problem& p, const at::Tensor& x, const std::vector<double>& d_loss,
                                                at::ScalarType waiting, bool wants_rows, bool wants_along);
// `p` with anchors in order, not gathered: x [N, D].
LossesAndGradients losses_and_gradients(Problem& p, const at::Tensor& x, const std::vector<double>& d_loss,
                                        at::ScalarType waiting, bool wants_rows, bool wants_columns, bool wants_along);

double dot(const float* a, const float* b, int64_t D);

}  // namespace fastpixcon::cpu
