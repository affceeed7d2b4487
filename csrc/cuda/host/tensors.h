// What the host code of the CUDA kernels shares.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <tuple>

#include "cuda/dtype.h"

namespace fastpixcon {

inline Dtype dtype_of(const char* name, const at::Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat: return Dtype::kFloat;
    case at::kBFloat16: return Dtype::kBFloat16;
    case at::kHalf: return Dtype::kHalf;
    default: TORCH_CHECK_TYPE(false, name, ": got dtype ", x.scalar_type(), ", want float32, bfloat16 or float16");
  }
}

// Of a kernel that takes it as an argument.
inline int integer_of(const char* name, const at::Tensor& x) {
  const auto of = [&] {
    switch (x.scalar_type()) {
      case at::kByte: return Integer::kUInt8;
      case at::kChar: return Integer::kInt8;
      case at::kUInt16: return Integer::kUInt16;
      case at::kShort: return Integer::kInt16;
      case at::kUInt32: return Integer::kUInt32;
      case at::kInt: return Integer::kInt32;
      case at::kLong: return Integer::kInt64;
      default: TORCH_CHECK_TYPE(false, name, ": got dtype ", x.scalar_type(), ", want an integer one");
    }
  };
  return static_cast<int>(of());
}

// [B, H, W], as kernels take it: a LabelMap.
inline auto label_map(const char* name, const at::Tensor& x) {
  return std::tuple(x, integer_of(name, x), x.size(1), x.size(2), x.stride(0), x.stride(1), x.stride(2));
}

template <typename T>
constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

template <typename T>
constexpr T round_up(T a, T b) {
  return ceil_div(a, b) * b;
}

}  // namespace fastpixcon
