// gather_normalize on CUDA: N pixels of a feature map as unit rows, in one launch, and the gradient map from theirs, in
// one beside zeroing; of many anchors in two.
#include "cuda/gather_normalize.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>

#include "common/checks.h"
#include "cuda/host/gather_normalize.h"
#include "cuda/host/launch.h"
#include "cuda/host/tensors.h"

namespace fastpixcon {

bool channels_are_close(const at::Tensor& map) {
  return (map.size(2) == 1 || map.stride(1) <= map.stride(2)) && (map.size(3) == 1 || map.stride(1) <= map.stride(3));
}

namespace {

constexpr int64_t kVectorBytes = 16;

bool is_aligned(const at::Tensor& x) { return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % kVectorBytes == 0; }

// Whether the dimensions of x but `along`, whose elements lie side by side, step by multiples of 16 bytes.
bool takes_vectors(const at::Tensor& x, int64_t along) {
  const int64_t count = kVectorBytes / x.element_size();
  bool takes = is_aligned(x) && x.stride(along) == 1 && x.size(along) % count == 0;
  for (int64_t i = 0; i < x.dim(); ++i) takes = takes && (i == along || x.size(i) == 1 || x.stride(i) % count == 0);
  return takes;
}

// How the rows of a map are turned: so many anchors a block, with rows of that many numbers. 0 anchors: not at all.
struct Tile {
  int anchors = 0, pitch = 0, shared = 0;

  Tile(const at::Tensor& map, int64_t N) {
    if (channels_are_close(map)) return;
    const DeviceLimits limits = device_limits(map);
    const int64_t size = map.element_size();
    for (const int count : {kManyAnchors, kFewAnchors}) {
      // Anchors begin in other banks, 32 / count apart, so that as many lanes write one column without a conflict.
      const int64_t words = round_up<int64_t>(ceil_div(map.size(1) * size, int64_t{4}), 32) + 32 / count;
      const bool fills = count == kFewAnchors || N >= int64_t{count} * limits.multiprocessors;
      if (!fills || count * words * 4 > limits.shared) continue;
      anchors = count;
      pitch = static_cast<int>(words * 4 / size);
      shared = static_cast<int>(count * words * 4);
      return;
    }
  }
};

void check_map(const at::Tensor& map, int64_t N) {
  TORCH_CHECK_VALUE(N < (int64_t{1} << 30), "index: got ", N, " pixels, want fewer than 2^30");
  for (int64_t i = 1; i < 4; ++i)
    TORCH_CHECK_VALUE(map.size(i) <= std::numeric_limits<int32_t>::max() / 8, "embeddings: got shape ", map.sizes(),
                      ", want dimensions below 2^28");
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> gather_normalize(const at::Tensor& embeddings, const at::Tensor& index_) {
  check_gather_normalize(embeddings, index_);
  const Dtype dtype = dtype_of("embeddings", embeddings);
  const int64_t N = index_.size(0), D = embeddings.size(1), h = embeddings.size(2), w = embeddings.size(3);
  check_map(embeddings, N);
  const c10::DeviceGuard guard(embeddings.device());
  const at::Tensor index = index_.contiguous();
  at::Tensor rows = at::empty({N, D}, embeddings.options());                     // [N, D]
  at::Tensor inv_norm = at::empty({N}, embeddings.options().dtype(at::kFloat));  // [N]
  const int64_t pixels = embeddings.size(0) * h * w;
  const Tile tile(embeddings, N);
  if (embeddings.numel() == 0) {  // of rows without elements, or of no pixels: every index is padding
    rows.zero_();
    inv_norm.zero_();
  } else if (tile.anchors > 0) {
    launch(gather_planes_kernel(dtype, tile.anchors), dim3(ceil_div<int64_t>(N, tile.anchors)), dim3(kGatherThreads),
           tile.shared, embeddings, index, rows, inv_norm, N, pixels, D, h, w, embeddings.stride(0),
           embeddings.stride(1), embeddings.stride(2), embeddings.stride(3), tile.pitch);
  } else {
    launch(gather_rows_kernel(dtype, takes_vectors(embeddings, 1)), dim3(ceil_div<int64_t>(N, kGatherWarps)),
           dim3(kGatherThreads), 0, embeddings, index, rows, inv_norm, N, pixels, D, h, w, embeddings.stride(0),
           embeddings.stride(1), embeddings.stride(2), embeddings.stride(3));
  }
  return {rows, inv_norm};
}

namespace {

at::Tensor gather_normalize_backward(const at::Tensor& d_rows_, const at::Tensor& rows_, const at::Tensor& inv_norm_,
                                     const at::Tensor& index_, at::IntArrayRef size, bool channels_last) {
  check_gather_normalize_backward(d_rows_, rows_, inv_norm_, index_, size);
  const int64_t N = index_.size(0), D = size[1], h = size[2], w = size[3], pixels = size[0] * h * w;
  const Dtype dtype = dtype_of("rows", rows_);
  const c10::DeviceGuard guard(rows_.device());
  const at::Tensor d_rows = d_rows_.to(rows_.scalar_type()), rows = rows_.contiguous();
  const at::Tensor inv_norm = inv_norm_.contiguous(), index = index_.contiguous();

  const auto layout = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  at::Tensor d_embeddings = at::empty(size, rows.options(), layout).zero_();  // [B, D, h, w]
  check_map(d_embeddings, N);
  if (d_embeddings.numel() == 0) return d_embeddings;
  std::optional<at::Tensor> owner;  // [pixels]
  if (N > kMostUnmarked) {
    owner = at::zeros({pixels}, index.options().dtype(at::kInt));
    launch(mark_owners_kernel(), dim3(ceil_div<int64_t>(N, kGatherThreads)), dim3(kGatherThreads), 0, index, owner, N,
           pixels);
  }
  const Tile tile(d_embeddings, N);
  if (tile.anchors > 0) {
    launch(scatter_planes_kernel(dtype, tile.anchors), dim3(ceil_div<int64_t>(N, tile.anchors)), dim3(kGatherThreads),
           tile.shared, d_rows, rows, inv_norm, index, owner, d_embeddings, N, pixels, D, h, w, d_rows.stride(0),
           d_rows.stride(1), d_embeddings.stride(0), d_embeddings.stride(1), d_embeddings.stride(2),
           d_embeddings.stride(3), tile.pitch);
  } else {
    const bool vectors = takes_vectors(d_embeddings, 1) && takes_vectors(d_rows, 1) && takes_vectors(rows, 1);
    launch(scatter_rows_kernel(dtype, vectors), dim3(ceil_div<int64_t>(N, kGatherWarps)), dim3(kGatherThreads), 0,
           d_rows, rows, inv_norm, index, owner, d_embeddings, N, pixels, D, h, w, d_rows.stride(0), d_rows.stride(1),
           d_embeddings.stride(0), d_embeddings.stride(1), d_embeddings.stride(2), d_embeddings.stride(3));
  }
  return d_embeddings;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CUDA, m) {
  m.impl("gather_normalize", &gather_normalize);
  m.impl("gather_normalize_backward", &gather_normalize_backward);
}

}  // namespace fastpixcon
