// What belongs together, as fastpixcon/values.py has it.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace fastpixcon {

// Anchors, or contrast rows.
struct Rows {
  at::Tensor x;       // [N, D]
  at::Tensor labels;  // [N] int32 or int64, -1 leaves a row out

  int64_t count() const { return x.size(0); }
};

// The rows of a memory bank; x[c] are of class c.
struct BankRows {
  at::Tensor x;       // [K, S, D]
  at::Tensor labels;  // [K, S] int32, -1 where empty
};

// What is made of the pairs, and what the caller knows of them.
struct Rule {
  at::Tensor temperature;        // []
  c10::string_view denominator;  // "negatives" or "all"
  bool fixed_shift;              // temperature >= 0.025
  bool is_sorted;                // all labels ascend, with -1 last

  bool negatives() const { return denominator == "negatives"; }
};

// Which pairs there are, of those that their labels make.
struct Pairs {
  std::optional<int64_t> diagonal;  // contrast row i + diagonal is anchor i itself; none: no anchor is among them
  std::optional<at::Tensor> mined;  // [4, N] of the anchors; none: all
  std::optional<at::Tensor> seed;   // [] int64, of the hash by which mined pairs are drawn

  int64_t first_anchor() const { return diagonal.value_or(0); }  // its number in the hash
};

// Of anchors, over all contrast sets: what the backward needs.
struct Statistics {
  at::Tensor d_loss, log_sum, weight, num_positives;  // [N]
};

}  // namespace fastpixcon
