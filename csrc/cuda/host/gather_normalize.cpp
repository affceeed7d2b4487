#include "cuda/gather_normalize.h"

#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "common/checks.h"
#include "cuda/host/launch.h"
#include "cuda/host/tensors.h"

namespace fastpixcon {
namespace {

std::tuple<at::Tensor, at::Tensor> gather_normalize(const at::Tensor& embeddings, const at::Tensor& index_) {
  check_dim("embeddings", embeddings, 4);
  check_dim("index", index_, 1);
  check_dtype("index", index_, at::kLong);
  check_same_device("index", index_, embeddings);
  const c10::DeviceGuard guard(embeddings.device());
  const int64_t N = index_.size(0), D = embeddings.size(1);
  const at::Tensor index = index_.contiguous();
  at::Tensor rows = at::empty({N, D}, embeddings.options());                     // [N, D]
  at::Tensor inv_norm = at::empty({N}, embeddings.options().dtype(at::kFloat));  // [N]
  const int64_t h = embeddings.size(2), w = embeddings.size(3);
  launch(gather_normalize_kernel(dtype_of("embeddings", embeddings)), dim3(ceil_div<int64_t>(N, 4)), dim3(128), 0,
         embeddings, index, rows, inv_norm, N, embeddings.size(0) * h * w, D, h, w, embeddings.stride(0),
         embeddings.stride(1), embeddings.stride(2), embeddings.stride(3));
  return {rows, inv_norm};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CUDA, m) { m.impl("gather_normalize", &gather_normalize); }

}  // namespace fastpixcon
