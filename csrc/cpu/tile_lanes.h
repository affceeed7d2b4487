// Which lanes of a vector of pairs count: in sums, as positives; by the columns' labels, by what rows and columns keep
// of them as anchors (mining).
#pragma once

#include <cstdint>

#include "cpu/tile.h"
#include "cpu/vec.h"

namespace fastpixcon::cpu {
namespace {

// Bijective mixing of 32-bit words, as mix32 in common/hash.h.
inline WordVec mix32(WordVec x) {
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}

// Whose pair it is: the row's as an anchor, or the columns'.
enum class Anchor { kRow, kColumns };

// What anchors keep of a vector of pairs.
struct KeptLanes {
  Vec dots, least, most;
  IntVec hash, negative_limit, positive_limit;

  IntVec negative() const { return (dots >= least) & (hash < negative_limit); }
  IntVec positive() const { return (dots <= most) & (hash < positive_limit); }
};

// Of the vectors at columns v of row i.
class Lanes {
 public:
  Lanes(const TileView& tile, int64_t i)
      : tile_(tile),
        s_(tile.s + i * kTileStride),
        i_(i),
        lo_(tile.positives ? tile.positives[i].lo : 0),
        hi_(tile.positives ? tile.positives[i].hi : 0),
        self_(tile.itself ? tile.itself[i] : -1),
        any_negative_(tile.rule == nullptr || tile.rule->negatives == Groups::kAny) {}

  // All lanes of the vectors in columns [v, end) are in the sum, and no positives.
  bool plain(int64_t v, int64_t end) const { return all_negatives(v, end) && !mined(); }
  bool plain(int64_t v) const { return plain(v, v + kWidth); }
  // The same but for what is mined: `kept` is all there is to ask of a lane.
  bool all_negatives(int64_t v, int64_t end) const {
    return end <= tile_.n && (v >= hi_ || end <= lo_) && (self_ < v || self_ >= end) && tile_.present == nullptr &&
           any_negative_;
  }
  // Rows and columns keep pairs of their own.
  bool mined() const { return tile_.rows.least != nullptr; }

  template <Anchor anchor = Anchor::kRow>
  IntVec positive(int64_t v) const {
    return mined() ? positive_here(v) & kept<anchor>(v).positive() : positive_here(v);
  }
  template <Anchor anchor = Anchor::kRow>
  IntVec in_sum(int64_t v) const {
    if (!mined()) return summed(v);
    const KeptLanes lanes = kept<anchor>(v);
    if (tile_.of.apart) return summed(v) & lanes.negative();
    return summed(v) & ((of_class(v) & lanes.positive()) | (~of_class(v) & lanes.negative()));
  }
  template <Anchor anchor = Anchor::kRow>
  KeptLanes kept(int64_t v) const {
    const Kept &rows = tile_.rows, &columns = tile_.columns;
    const Vec dots = load(s_ + v);
    if constexpr (anchor == Anchor::kRow) {
      const WordVec numbers = reinterpret_cast<WordVec>(load_ints(columns.number + v));
      return {dots,
              splat(rows.least[i_]),
              splat(rows.most[i_]),
              hash_of(numbers ^ rows.key[i_]),
              IntVec{} + rows.negative_limit[i_],
              IntVec{} + rows.positive_limit[i_]};
    } else {
      const uint32_t number = static_cast<uint32_t>(rows.number[i_]);
      return {dots,
              load(columns.least + v),
              load(columns.most + v),
              hash_of(load_keys(columns.key + v) ^ number),
              load_ints(columns.negative_limit + v),
              load_ints(columns.positive_limit + v)};
    }
  }

  int64_t first_positive() const { return lo_ / kWidth * kWidth; }
  int64_t last_positive() const { return hi_; }

 private:
  static IntVec hash_of(WordVec x) { return reinterpret_cast<IntVec>(mix32(x) >> 8); }
  IntVec here(int64_t v) const {
    const IntVec is_self = lane_index() == static_cast<int32_t>(self_ - v);
    const IntVec mask = lanes_between(0, tile_.n - v) & ~is_self;
    return tile_.present == nullptr ? mask : mask & load_ints(tile_.present + v);
  }
  IntVec of_class(int64_t v) const { return here(v) & lanes_between(lo_ - v, hi_ - v); }
  // Whether a rule lets pairs be of their groups.
  IntVec let_by(Groups which, int64_t v) const {
    const RuledRows &rows = tile_.rule->rows, &columns = tile_.rule->columns;
    if (columns.group == nullptr) return IntVec{} - (which == Groups::kOther ? 1 : 0);
    const IntVec same = load_ints(columns.group + v) == IntVec{} + rows.group[i_];
    return which == Groups::kSame ? same : ~same;
  }
  IntVec positive_here(int64_t v) const {
    const IntVec mask = of_class(v);
    if (tile_.rule == nullptr || tile_.rule->positives == Groups::kAny) return mask;
    return mask & let_by(tile_.rule->positives, v);
  }
  IntVec negative_here(int64_t v) const {
    const IntVec mask = here(v) & ~lanes_between(lo_ - v, hi_ - v);
    return any_negative_ ? mask : mask & let_by(tile_.rule->negatives, v);
  }
  IntVec summed(int64_t v) const {
    if (tile_.of.apart) return negative_here(v);
    return tile_.rule == nullptr ? here(v) : negative_here(v) | positive_here(v);
  }

  const TileView& tile_;
  const float* s_;
  int64_t i_, lo_, hi_, self_;
  bool any_negative_;
};

}  // namespace
}  // namespace fastpixcon::cpu
