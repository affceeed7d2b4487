// Which pairs anchors keep, in the order of sorted rows (fastpixcon/ops/mining_thresholds.py).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "common/hash.h"
#include "common/values.h"
#include "cpu/tile.h"

namespace fastpixcon::cpu {

class KeptPairs {
 public:
  // Of mined pairs. anchor_source, contrast_source: where sorted rows came from. Contrast rows are anchors as well if
  // there is no contrast_source.
  KeptPairs(const Pairs& pairs, uint32_t stream, const std::vector<int64_t>& anchor_source,
            const std::vector<int64_t>* contrast_source);

  // Of a tile's rows from i0, and of its columns from j0, which are rows of the same set where there is no other.
  Kept rows(int64_t i0) const {
    return {least_.data() + i0,          most_.data() + i0, negative_limit_.data() + i0,
            positive_limit_.data() + i0, key_.data() + i0,  number_.data() + i0};
  }
  Kept columns(int64_t j0) const {
    if (contrast_number_.empty()) return rows(j0);
    Kept kept;
    kept.number = contrast_number_.data() + j0;
    return kept;
  }

 private:
  std::vector<float> least_, most_;
  std::vector<int32_t> negative_limit_, positive_limit_, number_, contrast_number_;
  std::vector<uint32_t> key_;
};

}  // namespace fastpixcon::cpu
