// Under a rule of pairs.
#include "cuda/info_nce_sums.cuh"

namespace fastpixcon {

template <Precision kPrecision, bool kFixed>
constexpr InfoNCESumsKernel kRuledSums = &info_nce_sums<64, kPrecision, kFixed, true>;

InfoNCESumsKernel info_nce_sums_ruled(Precision precision, bool fixed) {
  switch (precision) {
    case Precision::kBFloat16:
      return fixed ? kRuledSums<Precision::kBFloat16, true> : kRuledSums<Precision::kBFloat16, false>;
    case Precision::kHalf: return fixed ? kRuledSums<Precision::kHalf, true> : kRuledSums<Precision::kHalf, false>;
    case Precision::kHalfx3: return kRuledSums<Precision::kHalfx3, true>;
    default: return kRuledSums<Precision::kFloat, false>;
  }
}

}  // namespace fastpixcon
