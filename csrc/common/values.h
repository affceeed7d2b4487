// What belongs together, as fastpixcon/values.py has it.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace fastpixcon {

// Anchors, or contrast rows.
struct Rows {
  at::Tensor x;       // [N, D]
  at::Tensor labels;  // [N] int32 or int64, -1 leaves a row out
  // Of each as a contrast row, [N] float >= 0, both or neither; none: ones.
  std::optional<at::Tensor> positive_weights, negative_weights;
  std::optional<at::Tensor> groups;  // [N] int32

  int64_t count() const { return x.size(0); }
};

// The rows of a memory bank; x[c] are of class c.
struct BankRows {
  at::Tensor x;                                // [K, S, D]
  at::Tensor labels;                           // [K, S] int32, -1 where empty
  std::optional<at::Tensor> negative_weights;  // [K] float >= 0 of the rows of a class as negatives; none: ones
};

// What is made of the pairs, and what the caller knows of them.
struct Rule {
  at::Tensor temperature;                   // []
  c10::string_view denominator;             // "negatives", "all" or "decoupled"
  bool fixed_shift;                         // temperature >= 0.025
  bool is_sorted;                           // all labels ascend, with -1 last
  std::optional<at::Tensor> class_weights;  // [K, K] float >= 0, of negatives; labels are below K. None: ones
  // Which of their positives, of their negatives anchors have: "any", of the "same" group or of an "other" one.
  c10::string_view positive_groups = "any", negative_groups = "any";

  bool negatives() const { return denominator == "negatives"; }
  bool apart() const { return denominator != "all"; }  // positives are not in Z
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
  at::Tensor d_loss, log_sum, weight, mass;  // [N]
};

}  // namespace fastpixcon
