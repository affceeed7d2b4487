// What memory safety needs when an operator is called directly; fastpixcon/ops/checks.py checks the rest.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

namespace fastpixcon {

inline void check_dim(const char* name, const at::Tensor& x, int64_t dim) {
  TORCH_CHECK_VALUE(x.dim() == dim, name, ": got shape ", x.sizes(), ", want ", dim, " dimensions");
}

inline void check_sizes(const char* name, const at::Tensor& x, at::IntArrayRef wanted) {
  TORCH_CHECK_VALUE(x.sizes() == wanted, name, ": got shape ", x.sizes(), ", want ", wanted);
}

inline void check_dtype(const char* name, const at::Tensor& x, at::ScalarType wanted) {
  TORCH_CHECK_TYPE(x.scalar_type() == wanted, name, ": got dtype ", x.scalar_type(), ", want ", wanted);
}

inline void check_same_device(const char* name, const at::Tensor& x, const at::Tensor& other) {
  TORCH_CHECK_VALUE(x.device() == other.device(), name, ": got a tensor on ", x.device(), ", want ", other.device());
}

}  // namespace fastpixcon
