#include "cpu/kept_pairs.h"

#include <algorithm>
#include <cmath>

namespace fastpixcon::cpu {
namespace {

constexpr size_t kOverhang = 64;  // read a vector past the end

// share * 2^24: what the upper 24 bits of a hash are below with that probability; 0 for NaN.
int32_t limit_of(float share) {
  return share > 0 ? static_cast<int32_t>(std::ceil(std::min(share, 1.0f) * 16777216.0f)) : 0;
}

}  // namespace

KeptPairs::KeptPairs(const Pairs& pairs, uint32_t stream, const std::vector<int64_t>& anchor_source,
                     const std::vector<int64_t>* contrast_source) {
  const at::Tensor mined = pairs.mined->contiguous();  // [4, N]
  const float* row = mined.const_data_ptr<float>();
  const int64_t N = mined.size(1);
  const size_t n = anchor_source.size();
  least_.resize(n + kOverhang);
  most_.resize(n + kOverhang);
  negative_limit_.resize(n + kOverhang);
  positive_limit_.resize(n + kOverhang);
  key_.resize(n + kOverhang);
  number_.resize(n + kOverhang);
  const uint32_t key = hash_key(pairs.seed->item<int64_t>(), stream);
  for (size_t i = 0; i < n; ++i) {
    const int64_t from = anchor_source[i];
    least_[i] = row[from];
    most_[i] = row[N + from];
    negative_limit_[i] = limit_of(row[2 * N + from]);
    positive_limit_[i] = limit_of(row[3 * N + from]);
    key_[i] = hash32(key, static_cast<int64_t>(static_cast<uint64_t>(pairs.first_anchor()) + from));  // modulo 2^64
    number_[i] = static_cast<int32_t>(from);
  }
  if (contrast_source == nullptr) return;
  contrast_number_.resize(contrast_source->size() + kOverhang);
  for (size_t j = 0; j < contrast_source->size(); ++j)
    contrast_number_[j] = static_cast<int32_t>((*contrast_source)[j]);
}

}  // namespace fastpixcon::cpu
