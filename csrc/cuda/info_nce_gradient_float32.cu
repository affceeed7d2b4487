// Gradients of float32 rows: in halves, and without tensor cores.
#include "cuda/gradient.cuh"
#include "cuda/gradient_tiles.cuh"

namespace fastpixcon {

template <typename Shape>
constexpr auto kHalves = &gradient_launch<Shape, float, Precision::kHalfx3, true>;
template <typename Shape>
constexpr auto kExact = &gradient_launch<Shape, float, Precision::kFloat, false>;

GradientLaunch info_nce_gradient_halves(int row_bytes) {
  if (row_bytes > 2048) return {};
  if (row_bytes > 1024) return kHalves<halves_tiles::Widest>(row_bytes);
  if (row_bytes > 512) return kHalves<halves_tiles::Wide>(row_bytes);
  return kHalves<halves_tiles::Small>(row_bytes);
}

GradientLaunch info_nce_gradient_float32(int row_bytes) {
  if (row_bytes > 2048) return {};
  if (row_bytes > 1024) return kExact<float_tiles::Widest>(row_bytes);
  if (row_bytes > 512) return kExact<float_tiles::Wide>(row_bytes);
  return kExact<float_tiles::Small>(row_bytes);
}

}  // namespace fastpixcon
