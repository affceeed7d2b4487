// Of pairs that all weigh the same.
#include "cuda/info_nce_sums.cuh"

namespace fastpixcon {

template <int kRows, Precision kPrecision>
InfoNCESumsKernel half_kernel(bool fixed) {
  return fixed ? &info_nce_sums<kRows, kPrecision, true, false> : &info_nce_sums<kRows, kPrecision, false, false>;
}

InfoNCESumsKernel info_nce_sums_kernel(Precision precision, bool fixed, int rows) {
  switch (precision) {
    case Precision::kBFloat16:
      return rows == 128 ? half_kernel<128, Precision::kBFloat16>(fixed) : half_kernel<64, Precision::kBFloat16>(fixed);
    case Precision::kHalf:
      return rows == 128 ? half_kernel<128, Precision::kHalf>(fixed) : half_kernel<64, Precision::kHalf>(fixed);
    case Precision::kHalfx3: return &info_nce_sums<64, Precision::kHalfx3, true, false>;
    default: return &info_nce_sums<64, Precision::kFloat, false, false>;
  }
}

}  // namespace fastpixcon
