// How dot products of rows are computed; no torch, for kernels are compiled without its headers.
#pragma once

namespace fastpixcon {

enum class Precision {
  kBFloat16,
  kHalf,
  kHalfx3,  // float32 to 22 bits: of numbers in two halves of float16, three products; see halves.cuh
  kTf32,
  kTf32x4,  // float32 to 22 bits: of numbers cut in two, all four products
  kFloat,   // float32 without tensor cores: a product of rows a, b has the same bits as that of b, a
};

constexpr bool is_half(Precision precision) {
  return precision == Precision::kBFloat16 || precision == Precision::kHalf;
}
// Bytes of a number.
constexpr int element_size(Precision precision) { return is_half(precision) ? 2 : 4; }

}  // namespace fastpixcon
