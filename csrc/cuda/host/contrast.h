// Steps over one contrast set of several.
#pragma once

#include <optional>

#include "common/operators.h"
#include "cuda/host/problem.h"
#include "cuda/host/sweep.h"

namespace fastpixcon {

using Diagonal = std::optional<int64_t>;

Problem problem_of(const ContrastSet& set);

// log of the sums of anchors, [N]. itself: where anchors begin among the contrast rows.
at::Tensor log_sum_of(const ContrastSet& set, const Problem& p, const Diagonal& itself);

// Anchors and contrast rows, for their positives.
Sweep positives_sweep(const ContrastSet& set, const Problem& p);

// Anchors and a bank; like: the same anchors, prepared for the batch.
Sweep memory_sweep(const MemorySet& set, const std::optional<Prepared>& like = {});

}  // namespace fastpixcon
