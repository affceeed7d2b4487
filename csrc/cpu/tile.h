// The arithmetic on one tile of logits S = A C^T, rows I by columns J, as each instruction set does it.
//
// A tile is row-major float [m][kTileStride]; columns past n up to the next multiple of `lanes` exist and are
// kept zero where they are multiplied.
#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace fastpixcon::cpu {

constexpr int64_t kTile = 192;        // the most rows and columns of a tile
constexpr int64_t kTileStride = 208;  // 13 cache lines: a column of a tile falls into different sets

// Columns [lo, hi) of a tile row, local to the tile.
struct Range {
  int32_t lo, hi;
};

// Which of its negatives and positives an anchor keeps: those with least <= s and s <= most, s the dot product, and
// with hash >> 8 below a limit. Of the rows of a tile or of its columns, from the first of them; null: all.
struct Kept {
  const float *least = nullptr, *most = nullptr;
  const int32_t *negative_limit = nullptr, *positive_limit = nullptr;
  const uint32_t* key = nullptr;    // hash of the anchor's number
  const int32_t* number = nullptr;  // as a contrast row
};

// Which of their positives, or negatives, anchors have: all, those of their group, those of others.
enum class Groups : int8_t { kAny, kSame, kOther };

// What a set of rows brings along for a rule of pairs, from the first of a tile.
struct RuledRows {
  // Weights in sums of each as a positive, as a negative of an anchor; without a fixed shift their logarithms.
  const float *positive = nullptr, *negative = nullptr;
  const float* mass = nullptr;     // weights as positives in means over them; null: ones
  const int32_t* label = nullptr;  // null unless there are weights
  const int32_t* group = nullptr;  // null: rows of no group
};

// Which pairs of a tile count, and how much, beyond their labels.
struct TileRule {
  RuledRows rows, columns;
  bool weighted;               // sums are
  const float* class_weights;  // [classes][classes], as the others in sums; null: ones
  int64_t classes;
  Groups positives, negatives;
};

// What is made of the pairs.
struct Denominator {
  bool apart;     // positives are not in the sums ("negatives", "decoupled")
  bool softplus;  // the loss of a positive is log(1 + Z e^-s) ("negatives"), or log Z - s
};

// A tile of dot products and what its sums and gradients need to know.
struct TileView {
  float* s;                // [m][kTileStride]
  int64_t m, n;            // rows, columns
  const Range* positives;  // [m] columns of the row's class; null: there are none, or they do not matter
  Denominator of;
  const int32_t* itself;  // [m] the column that is the row itself, neither in a sum nor a positive, or -1; null: none
  // Logits x = s * scale - shift, and 2^(x * unit) their exponential. Fixed shift: in units of log2, scale =
  // shift = log2(e) / temperature, so that x <= 0 on unit rows. Online: in nats as the statistics are, so that
  // a logit and the log of a sum that it dominates are the same float, however large.
  float scale, shift, unit;
  const int32_t* present = nullptr;  // [n] all bits or none: whether the column counts; null: all do
  Kept rows = {}, columns = {};      // what is kept by the rows as anchors, by the columns
  const TileRule* rule = nullptr;    // null: labels say all
};

// A running log-sum-exp, sum * e^max. With a fixed shift, max is not used.
struct RunningSum {
  float* max;
  double* sum;
};

// Sums over positives, per row or column.
struct PositiveSums {
  const float* log_sum;  // log Z in the unit and with the shift of x
  double* loss;          // += log(1 + Z / e^s) or log(Z / e^s), nats, 0 for an empty Z
  double* weight;        // += Z / (Z + e^s) ("negatives")
  double* mass;          // += 1, or the weight of the positive that the others are weighed by
};

// dL/ds = weight * e^s / Z for the columns in the sum, less for positives pull * Z / (Z + e^s) ("negatives") or
// pull ("all").
struct GradientTerms {
  const float* weight;  // fixed shift: weight / (Z 2^-shift); online: weight
  const float* pull;
  const float* sum;  // fixed shift: Z 2^-shift; online: log Z
};

// What a set of rows is in a product.
enum class Part { kLeft, kRight, kValues };  // rows of a logits tile, its columns, what a gradient tile multiplies

// Dot-product operands of a set of rows, in the layout of the instruction set.
struct Operand {
  const float* rows;            // [count][stride], zeros beyond D and beyond the last row
  int64_t stride;               // of rows
  int64_t depth;                // D
  int64_t count;                // rows, up to a multiple of lanes
  const float* packed[3] = {};  // [Part] the rows again, see tile_gemm*.h; null: products read rows, or there are none

  const float* of(Part part) const { return packed[static_cast<int>(part)]; }
};

// Floats up to an odd number of cache lines: rows that far apart fall into different sets.
inline int64_t odd_lines(int64_t floats) { return ((floats + 15) / 16 | 1) * 16; }

// Memory that the next products read, fetched into the second cache line by line while this one computes.
class Ahead {
 public:
  struct Line {
    const char* at;
    int64_t step;  // from one prefetch to the next; of a line's size or less
  };

  void add(const void* from, int64_t bytes) {
    areas_[count_++] = {static_cast<const char*>(from), static_cast<const char*>(from) + bytes};
  }
  // The next `bytes`, for prefetches `step` bytes apart. Past the end of an area they fetch what follows it.
  Line take(int64_t bytes, int64_t step) {
    if (now_ == count_) return {reinterpret_cast<const char*>(this), 0};
    Area& area = areas_[now_];
    const Line line{area.at, step};
    area.at += bytes;
    if (area.at >= area.end) ++now_;
    return line;
  }

 private:
  struct Area {
    const char *at, *end;
  };
  Area areas_[4];
  int64_t count_ = 0, now_ = 0;
};

struct TileKernels {
  bool bf16;      // the rows must be bfloat16 values
  int64_t lanes;  // blocks start at multiples of this
  int64_t block;  // rows and columns of a tile that suit the caches
  int64_t (*pack_size)(Part part, int64_t count, int64_t depth, int64_t stride);  // floats; 0: products read rows
  // Packs operand.rows for what they are in a product, panels [first, last).
  void (*pack)(Part part, const Operand& operand, float* packed, int64_t first, int64_t last);
  // Adds what products read of rows [row, row + count).
  void (*ahead_of)(const Operand& operand, Part part, int64_t row, int64_t count, Ahead& ahead);
  // s [m][kTileStride] = rows [i0, i0 + m) of a times rows [j0, j0 + n) of c, transposed.
  void (*logits)(const Operand& a, int64_t i0, int64_t m, const Operand& c, int64_t j0, int64_t n, float* s,
                 Ahead& ahead);
  // d [m][stride] += h [m][n] rows(j0..): gradient of the tile's rows; d starts at the first of them, and has m up to
  // the next multiple of `lanes`.
  void (*add_rows)(const float* h, int64_t m, int64_t n, const Operand& c, int64_t j0, float* d, Ahead& ahead);
  // d [n][stride] += h^T rows(i0..): gradient of the tile's columns.
  void (*add_columns)(const float* h, int64_t m, int64_t n, const Operand& a, int64_t i0, float* d, Ahead& ahead);
  // Sums of e^s over each row, and over each column unless columns.sum is null. Destroys s.
  void (*sum_fixed)(const TileView& tile, RunningSum rows, RunningSum columns);
  void (*sum_online)(const TileView& tile, RunningSum rows, RunningSum columns);
  // Loss and weight over the positives of each row, and of each column unless columns.loss is null.
  void (*positives)(const TileView& tile, PositiveSums rows, PositiveSums columns);
  // s becomes dL/ds of the rows, plus that of the columns unless columns.weight is null.
  void (*gradient_fixed)(const TileView& tile, GradientTerms rows, GradientTerms columns);
  void (*gradient_online)(const TileView& tile, GradientTerms rows, GradientTerms columns);

  // What a contrast set without gradient needs: s becomes what the columns' rows are added up with.
  // s becomes e^s, in units of the fixed shift, or e^(s - rows.max); factor [m]: what rows.max has scaled sums by.
  void (*weights_fixed)(const TileView& tile, RunningSum rows);
  void (*weights_online)(const TileView& tile, RunningSum rows, float* factor);
  // s becomes the pull of positives, Z / (Z + e^s) or 1, zero elsewhere.
  void (*pulls)(const TileView& tile, PositiveSums rows);
  // The same and d [m][stride] += the weights times rows of c, where few are kept; false, doing nothing, if not few.
  bool (*add_few_weights)(const TileView& tile, RunningSum rows, const Operand& c, int64_t j0, float* d);
  bool (*add_few_pulls)(const float* s, int64_t m, int64_t n, const Operand& c, int64_t j0, float* d);
  // Counts cosines in bins; counts [m][kCounts], see tile_histogram.h.
  void (*count_cosines)(const TileView& tile, int32_t* counts);
};

// Counters of an anchor's cosines, in bins over [-1, 1]: of negatives, of positives, of what is neither.
constexpr int64_t kBins = 1024, kCounts = 2 * kBins + 16;

const TileKernels& tile_kernels_baseline();
const TileKernels& tile_kernels_avx2();
const TileKernels& tile_kernels_avx512();
const TileKernels& tile_kernels_avx512_bf16();
const TileKernels& tile_kernels_amx();
// The same code in narrower vectors and software tiles, for tests on processors without them; only in builds for tests,
// and so reached through emulated_kernels (isa.h).
const TileKernels& tile_kernels_avx512_emulated();
const TileKernels& tile_kernels_avx512_bf16_emulated();
const TileKernels& tile_kernels_amx_emulated();

}  // namespace fastpixcon::cpu
