// Kernels of mining_thresholds, for their host code. Rows are as in contrast.h.
#pragma once

#include <cstdint>

#include "cuda/precision.h"

namespace fastpixcon {

constexpr int kMiningBins = 1024;  // as in the contract

// Adds to counts [2, N, kMiningBins], of negatives and of positives, in the order in which the anchors came, the pairs
// of one of both with the columns y [M], of those that `which` lets be (Groups; null: of none, grouped kernels only);
// ring and itself: see ContrastKernel. A block counts up to kMostCounted columns of its share, gridDim.y of which are
// all.
using MiningCountsKernel = void (*)(const void* x, const int32_t* x_labels, const int64_t* x_source, const void* y,
                                    const int32_t* y_labels, const int32_t* itself, int32_t* counts, int N, int M,
                                    int row_bytes, int y_bytes, int ring, bool positives, const int32_t* x_groups,
                                    const int32_t* y_groups, int which);
struct MiningLaunch {
  MiningCountsKernel kernel;
  int rows, columns;  // of a tile
  int threads;
  int shared;  // bytes
};
constexpr int kMostCounted = 65535;
// The largest tiles that fit into so many bytes of shared memory.
MiningLaunch mining_counts(Precision precision, int shared, bool grouped);

enum class MiningKind : int { kNone, kHardest, kSemiHard, kRandom };

// mined [4, N] of the anchors first.. from their counts [2, n, kMiningBins], a warp an anchor; fraction in units of
// 2^-32.
using MiningThresholdsKernel = void (*)(const int32_t* counts, float* mined, int n, int64_t N, int64_t first,
                                        int negatives, int positives, int64_t fraction, int keep_negatives,
                                        int keep_positives);
MiningThresholdsKernel mining_thresholds_kernel();
constexpr int kThresholdThreads = 256;

}  // namespace fastpixcon
