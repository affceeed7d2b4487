// Which pairs of an anchor are hard: counts of its cosines in bins, in shared memory, then thresholds. Negatives and
// positives are counted apart, for the latter lie together. Integers add up in any order, so the result is always the
// same.
#include "cuda/mining_thresholds.h"
#include "cuda/pairs.cuh"
#include "cuda/rules.cuh"
#include "cuda/sorted_labels.cuh"
#include "cuda/tile.cuh"
#include "cuda/warp.cuh"

namespace fastpixcon {
namespace {

// A block of anchors against tiles of columns, panel by panel; a warp takes 32 rows by 16 columns. Of a row there are
// two counts of 16 bits a word, of bins far apart, and words more than that, so that equal bins of 8 rows lie in
// different banks.
template <int kRows_>
struct CountShape {
  static constexpr int kRows = kRows_, kColumns = 64, kThreads = 4 * kRows;
  static constexpr int kM = 2, kN = 2;  // of 16 rows, of 8 columns, a warp
  static constexpr int kHalf = kMiningBins / 2, kWords = kHalf + 4;
  static constexpr int kStageBytes = (kRows + kColumns) * kPanel;
  static constexpr int kShared = 2 * kStageBytes + kRows * kWords * 4 + 2 * kColumns * 4;
};

// From 0 for -1 to the last for 1; exact, but for what is outside.
__device__ int bin_of(float cosine) {
  const int bin = __float2int_rd(cosine * (kMiningBins / 2)) + kMiningBins / 2;
  return min(max(bin, 0), kMiningBins - 1);
}

}  // namespace

template <int kRows, Precision kPrecision, bool kGrouped>
__global__ void __launch_bounds__(CountShape<kRows>::kThreads, 1)
    count_cosines(const void* x_, const int32_t* x_labels, const int64_t* x_source, const void* y_,
                  const int32_t* y_labels, const int32_t* itself, int32_t* counts, int N, int M, int row_bytes,
                  int y_bytes, int ring, bool positives, const int32_t* x_groups, const int32_t* y_groups, int which) {
  using Shape = CountShape<kRows>;
  constexpr int kColumns = Shape::kColumns, kThreads = Shape::kThreads, kM = Shape::kM, kN = Shape::kN;
  constexpr int kWords = Shape::kWords, kHalf = Shape::kHalf;
  extern __shared__ __align__(128) char shared[];
  uint32_t* const bins = reinterpret_cast<uint32_t*>(shared + 2 * Shape::kStageBytes);  // [kRows][kWords]
  int32_t* const tile_labels = reinterpret_cast<int32_t*>(bins + kRows * kWords);       // [2][kColumns]

  const char *const x = static_cast<const char*>(x_), *const y = static_cast<const char*>(y_);
  const Lane l;
  const int tid = threadIdx.x, warp = tid / kWarp, panels = row_bytes / kPanel;
  const int i0 = blockIdx.x * kRows, row_valid = count_less(x_labels, N, kLeftOut);
  if (i0 >= row_valid) return;
  const int x_end = min(i0 + kRows, row_valid);
  const uint32_t first_class = key_of(x_labels[i0]), last_class = key_of(x_labels[x_end - 1]);

  int begin = 0, end = (M + kColumns - 1) / kColumns;  // tiles
  if (positives) {
    const ColumnRange range(y_labels, M, ring, first_class, last_class);
    begin = range.from / kColumns, end = (range.to + kColumns - 1) / kColumns;
  }
  const int share = (end - begin + gridDim.y - 1) / gridDim.y;
  begin += blockIdx.y * share;
  end = min(begin + share, end);
  if (begin >= end) return;

  const int first_row = warp / 4 * 32, first_column = warp % 4 * 16;
  int32_t labels[kM][2], own[kM][2];  // own: column
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = i0 + first_row + 16 * m + 8 * i + l.g;
      labels[m][i] = row < x_end ? x_labels[row] : -1;
      own[m][i] = row < x_end && itself != nullptr ? itself[row] : -1;
    }

  int load_tile = begin, load_panel = 0;
  const auto load = [&](int stage) {
    if (load_tile < end) {
      char* const to = shared + stage * Shape::kStageBytes;
      const int j0 = load_tile * kColumns;
      copy_panels<kRows, kThreads>(to, x, row_bytes, load_panel, 1, i0, x_end);
      copy_rows<kColumns, kThreads>(to + kRows * kPanel, y, y_bytes, load_panel, 1, j0, M);
      if (load_panel == 0 && tid < kColumns) {
        const bool here = j0 + tid < M;
        copy_async_4(tile_labels + load_tile % 2 * kColumns + tid, y_labels + (here ? j0 + tid : 0), here);
      }
      if (++load_panel == panels) load_panel = 0, ++load_tile;
    }
    copy_async_commit();
  };

  load(0);
  for (int word = tid; word < kRows * kWords; word += kThreads) bins[word] = 0;
  int stage = 0;
  for (int tile = begin; tile < end; ++tile) {
    const int j0 = tile * kColumns;
    const int32_t* const column_labels = tile_labels + tile % 2 * kColumns;
    float s[kM][kN][4] = {};
    bool any = true;
    for (int panel = 0; panel < panels; ++panel) {
      copy_async_wait<0>();
      __syncthreads();  // the panel is there, and the one before is no longer read
      load(1 - stage);
      if (panel == 0) {
        const TileLabels keys(column_labels, kColumns, M - j0);
        const bool apart = keys.last < first_class || last_class < keys.first;
        const bool alike = keys.first == keys.last && first_class == last_class && keys.first == first_class;
        any = !keys.empty() && !(positives ? apart : alike);
      }
      const char* const rows = shared + stage * Shape::kStageBytes;
      if (any) multiply_panels<kPrecision>(s, rows, first_row, rows + kRows * kPanel, first_column);
      stage = 1 - stage;
    }
    if (!any) continue;
#pragma unroll
    for (int n = 0; n < kN; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = first_column + 8 * n + 2 * l.t + e, j = j0 + column;
        const int32_t label = j < M ? column_labels[column] : -1;
        if (label == -1) continue;
#pragma unroll
        for (int m = 0; m < kM; ++m)
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            if (labels[m][i] == -1 || own[m][i] == j || (labels[m][i] == label) != positives) continue;
            if constexpr (kGrouped) {
              const int row = i0 + first_row + 16 * m + 8 * i + l.g;
              const bool same_group = x_groups != nullptr && y_groups != nullptr && x_groups[row] == y_groups[j];
              if (!lets(which, same_group)) continue;
            }
            const int bin = bin_of(s[m][n][2 * i + e]), row = first_row + 16 * m + 8 * i + l.g;
            atomicAdd(bins + row * kWords + bin % kHalf, bin < kHalf ? 1u : 0x10000u);
          }
      }
  }

  __syncthreads();
  for (int row = warp; i0 + row < x_end; row += kThreads / kWarp) {
    const int64_t from = x_source == nullptr ? i0 + row : x_source[i0 + row];
    int32_t* const to = counts + ((positives ? N : 0) + from) * kMiningBins;
    for (int word = l.lane; word < kHalf; word += kWarp) {
      const uint32_t both = bins[row * kWords + word];
      if (both % 0x10000 != 0) atomicAdd(to + word, static_cast<int32_t>(both % 0x10000));
      if (both / 0x10000 != 0) atomicAdd(to + kHalf + word, static_cast<int32_t>(both / 0x10000));
    }
  }
}

namespace {

// The threshold of an anchor and the share of pairs that is kept. count(h): of the bin that is the h-th hardest,
// edge(h): what the hardest h + 1 bins end with.
template <typename Count, typename Edge>
__device__ void threshold(MiningKind kind, int64_t fraction, int keep, const Count& count, const Edge& edge,
                          float everything, float nothing, float& bound, float& share) {
  bound = everything, share = 1;
  if (kind == MiningKind::kNone) return;
  const int lane = threadIdx.x % kWarp;
  int pool = 0;  // of all
  for (int h = lane; h < kMiningBins; h += kWarp) pool += count(h);
  pool = warp_sum(pool);
  if (kind != MiningKind::kRandom) {
    // ceil(fraction n), rounded as a product of doubles would be: not up because of the last bits of fraction
    const int64_t part = (pool * fraction + (0xFFFFFFFF - static_cast<int64_t>(pool))) >> 32;
    const int wanted = kind == MiningKind::kHardest ? min(keep, pool) : static_cast<int>(part);
    if (wanted == 0) bound = nothing;
    pool = 0;
    for (int first = 0; pool < wanted; first += kWarp) {
      const int up_to = pool + warp_inclusive_sum(count(first + lane));
      const unsigned enough = __ballot_sync(kAllLanes, up_to >= wanted);
      const int last = enough == 0 ? kWarp - 1 : __ffs(enough) - 1;
      pool = __shfl_sync(kAllLanes, up_to, last);
      if (enough != 0 && first + last < kMiningBins - 1) bound = edge(first + last);
    }
  }
  if (kind != MiningKind::kHardest) share = min(1.0f, static_cast<float>(keep) / static_cast<float>(max(pool, 1)));
}

}  // namespace

__global__ void __launch_bounds__(kThresholdThreads)
    mining_thresholds(const int32_t* counts, float* mined, int n, int64_t N, int64_t first, int negatives,
                      int positives, int64_t fraction, int keep_negatives, int keep_positives) {
  const int row = blockIdx.x * (kThresholdThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= n) return;
  const int32_t* const of_negatives = counts + static_cast<int64_t>(row) * kMiningBins;
  const int32_t* const of_positives = of_negatives + static_cast<int64_t>(n) * kMiningBins;
  const auto lower = [](int bin) { return static_cast<float>(bin) * (2.0f / kMiningBins) - 1; };  // edge
  float least, most, negative_share, positive_share;
  threshold(
      static_cast<MiningKind>(negatives), fraction, keep_negatives,
      [&](int h) { return of_negatives[kMiningBins - 1 - h]; }, [&](int h) { return lower(kMiningBins - 1 - h); },
      -INFINITY, INFINITY, least, negative_share);
  threshold(
      static_cast<MiningKind>(positives), fraction, keep_positives, [&](int h) { return of_positives[h]; },
      [&](int h) { return lower(h + 1); }, INFINITY, -INFINITY, most, positive_share);
  if (threadIdx.x % kWarp != 0) return;
  float* const to = mined + first + row;
  to[0] = least, to[N] = most, to[2 * N] = negative_share, to[3 * N] = positive_share;
}

namespace {

template <int kRows, Precision kPrecision, bool kGrouped>
MiningLaunch launch_of() {
  using Shape = CountShape<kRows>;
  return {&count_cosines<kRows, kPrecision, kGrouped>, kRows, Shape::kColumns, Shape::kThreads, Shape::kShared};
}

template <int kRows, bool kGrouped>
MiningLaunch launch_of(Precision precision) {
  switch (precision) {
    case Precision::kBFloat16: return launch_of<kRows, Precision::kBFloat16, kGrouped>();
    case Precision::kHalf: return launch_of<kRows, Precision::kHalf, kGrouped>();
    default: return launch_of<kRows, Precision::kHalfx3, kGrouped>();
  }
}

}  // namespace

MiningLaunch mining_counts(Precision precision, int shared, bool grouped) {
  if (grouped) return launch_of<32, true>(precision);
  const MiningLaunch large = launch_of<64, false>(precision);
  return large.shared <= shared ? large : launch_of<32, false>(precision);
}

MiningThresholdsKernel mining_thresholds_kernel() { return &mining_thresholds; }

}  // namespace fastpixcon
