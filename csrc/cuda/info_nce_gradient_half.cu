// Gradients of bfloat16 and float16 rows.
#include "cuda/gradient.cuh"

namespace fastpixcon {

// D <= 256, 146 KiB: a warp takes 32 x 32 logits and 32 x 128 of the gradient, and reads 256 and 128 bytes of shared
// memory a product, of which an SM of sm_80 can give 256 in the time of its tensor cores.
using Large = GradientShape<128, 64, 4, 2, 4, 2, 8>;
using Small = GradientShape<64, 32, 2, 2, 2, 2, 8>;  // D <= 256, 70 KiB
using Wide = GradientShape<32, 32, 2, 2, 1, 4, 8>;   // D <= 512, 99 KiB

template <typename scalar_t, Precision kPrecision, bool kFixed>
GradientLaunch choose(int row_bytes, int shared) {
  if (row_bytes > 1024) return {};
  if (row_bytes > 512) return gradient_launch<Wide, scalar_t, kPrecision, kFixed>(row_bytes);
  const GradientLaunch large = gradient_launch<Large, scalar_t, kPrecision, kFixed>(row_bytes);
  return large.shared <= shared ? large : gradient_launch<Small, scalar_t, kPrecision, kFixed>(row_bytes);
}

GradientLaunch info_nce_gradient_launch_half(Precision precision, bool fixed, int row_bytes, int shared) {
  if (precision == Precision::kBFloat16)
    return fixed ? choose<__nv_bfloat16, Precision::kBFloat16, true>(row_bytes, shared)
                 : choose<__nv_bfloat16, Precision::kBFloat16, false>(row_bytes, shared);
  return fixed ? choose<__half, Precision::kHalf, true>(row_bytes, shared)
               : choose<__half, Precision::kHalf, false>(row_bytes, shared);
}

}  // namespace fastpixcon
