// memory_rows on CUDA tensors, in six launches. The map is read twice, for the norms of its pixels and for the sums of
// regions, each pixel once, whatever its class; memory beyond the results: 12 bytes a pixel.
#include "cuda/memory_rows.h"

#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <limits>

#include "common/checks.h"
#include "cuda/host/gather_normalize.h"
#include "cuda/host/launch.h"
#include "cuda/host/tensors.h"

namespace fastpixcon {
namespace {

using at::Tensor;

std::tuple<Tensor, Tensor, Tensor, Tensor> memory_rows(const Tensor& embeddings, const Tensor& labels,
                                                       const Tensor& seed, int64_t num_classes,
                                                       int64_t pixels_per_image, int64_t ignore_index) {
  check_memory_rows(embeddings, labels, seed, num_classes, pixels_per_image);
  const Dtype dtype = dtype_of("embeddings", embeddings);
  const int64_t B = embeddings.size(0), D = embeddings.size(1), h = embeddings.size(2), w = embeddings.size(3);
  const int64_t K = num_classes, P = pixels_per_image, pixels = B * h * w, segments = B * K;
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  TORCH_CHECK_VALUE(pixels <= kMost, "embeddings: got ", pixels, " pixels, want fewer than 2^31");
  TORCH_CHECK_VALUE(segments <= kMost / P, "num_classes, pixels_per_image: got ", K, ", ", P,
                    ", want fewer than 2^31 rows");
  const c10::DeviceGuard guard(embeddings.device());
  const auto rows = embeddings.options().memory_format(at::MemoryFormat::Contiguous);
  const auto ints = rows.dtype(at::kInt), longs = rows.dtype(at::kLong), floats = rows.dtype(at::kFloat);
  const Tensor classes = at::empty({B, h * w}, ints), members = at::empty({B, h * w}, ints);
  const Tensor begin = at::empty({B, K}, ints), count = at::empty({B, K}, ints), units = at::empty({B, K}, ints);
  const Tensor drawn = at::empty({B, K, P}, longs), index = at::empty({segments * P}, longs);
  Tensor pixel_labels = at::empty({B, K, P}, ints), region_labels = at::empty({B, K}, ints);
  launch(memory_classes_kernel(), dim3(ceil_div<int64_t>(pixels, kMemoryThreads)), dim3(kMemoryThreads), 0,
         label_map("labels", labels), classes, pixels, h, w, K, ignore_index);
  const bool channels = channels_are_close(embeddings);
  const auto [stride_b, stride_d, stride_h, stride_w] =
      std::tuple(embeddings.stride(0), embeddings.stride(1), embeddings.stride(2), embeddings.stride(3));
  const Tensor inv_norms = at::empty({B, h * w}, floats), sums = at::empty({B, K, D}, floats);
  Tensor regions = at::empty({B, K, D}, rows);
  launch(memory_norms_kernel(dtype, channels), dim3(ceil_div<int64_t>(pixels * (channels ? 32 : 1), kMemoryThreads)),
         dim3(kMemoryThreads), 0, embeddings, inv_norms, pixels, D, h, w, stride_b, stride_d, stride_h, stride_w);
  launch(memory_segments_kernel(), dim3(segments), dim3(kMemoryThreads), 0, classes, inv_norms, seed, members, begin,
         count, units, drawn, index, pixel_labels, K, P, h * w);
  const Tensor drawn_rows = std::get<0>(gather_normalize(embeddings, index));
  launch(region_sums_kernel(dtype, channels), dim3(segments, ceil_div<int64_t>(D, kRegionChannels)),
         dim3(kMemoryThreads), 0, embeddings, inv_norms, members, begin, count, sums, K, D, h, w, stride_b, stride_d,
         stride_h, stride_w);
  launch(regions_kernel(dtype), dim3(ceil_div<int64_t>(segments * 32, kMemoryThreads)), dim3(kMemoryThreads), 0, sums,
         units, regions, region_labels, segments, K, D);
  return {drawn_rows.view({B, K, P, D}), pixel_labels, regions, region_labels};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CUDA, m) { m.impl("memory_rows", &memory_rows); }

}  // namespace fastpixcon
