// select_anchors on CUDA, in four launches (cuda/select_anchors.h); fastpixcon/reference/select_anchors.py is the
// contract.
#include "cuda/select_anchors.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/checks.h"
#include "cuda/host/launch.h"
#include "cuda/host/select_anchors.h"
#include "cuda/host/tensors.h"

namespace fastpixcon {
namespace {

constexpr int64_t kMostBins = 4096;  // counters in shared memory
constexpr int64_t kVectorBytes = 16;
constexpr int kBlocksPerMultiprocessor = 8;

Logits logits_of(const at::Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat: return Logits::kFloat;
    case at::kDouble: return Logits::kDouble;
    case at::kBFloat16: return Logits::kBFloat16;
    case at::kHalf: return Logits::kHalf;
    default:
      TORCH_CHECK_TYPE(false, "predictions: got dtype ", x.scalar_type(),
                       ", want float32, float64, bfloat16 or float16");
  }
}

// How the codes are made: by which kernel, with how much of what.
struct Reading {
  Predictions predictions = Predictions::kClasses;
  int bins, shared, pixels_per_thread = 1;
  bool is_aligned = false;  // images begin at multiples of 16 bytes

  Reading(const at::Tensor& x, int64_t K) {
    bins = 2 * K <= kMostBins ? static_cast<int>(2 * K) : 0;
    shared = round_up(bins * 4, 16);
    if (x.dim() == 3) return;
    predictions = Predictions::kLogits;
    const int64_t size = x.element_size(), count = kVectorBytes / size;
    const int64_t h = x.size(2), w = x.size(3), stride_w = x.stride(3);
    const bool lines_touch = h == 1 || x.stride(2) == w * stride_w;
    is_aligned = reinterpret_cast<uintptr_t>(x.const_data_ptr()) % kVectorBytes == 0 &&
                 (x.size(0) == 1 || x.stride(0) % count == 0);
    const int64_t tile = kCodesThreads * K * size;
    if (lines_touch && stride_w == 1 && is_aligned && (K == 1 || x.stride(1) % count == 0) && h * w % count == 0) {
      predictions = Predictions::kPlanes;
      pixels_per_thread = static_cast<int>(count);
    } else if (lines_touch && stride_w == K && (K == 1 || x.stride(1) == 1) &&
               tile + shared <= device_limits(x).shared) {
      predictions = Predictions::kPixels;
      shared += static_cast<int>(tile);
    }
  }
};

// No less than the rooms of all groups together: those of each segment that keeps any.
int64_t most_candidates(int64_t segments, int64_t max_samples, int64_t max_views) {
  const double keep = static_cast<double>(std::min(max_samples, max_views));
  const double beyond = kSlack * std::sqrt(keep) + 2 * kSlack;
  // Beyond those kept, of one group; the kernel rounds to float.
  const double beyond_room = beyond + 6 * std::sqrt(keep + beyond) + 16 + 2 + 1e-6 * keep;
  return std::min(segments, max_samples) * 2 * static_cast<int64_t>(std::ceil(beyond_room)) + max_samples;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> select_anchors(const at::Tensor& labels,
                                                                          const at::Tensor& predictions,
                                                                          const at::Tensor& seed, int64_t num_classes,
                                                                          int64_t max_samples, int64_t max_views,
                                                                          int64_t min_pixels, int64_t ignore_index) {
  check_select_anchors(labels, predictions, seed, num_classes, max_samples, max_views, min_pixels);
  const int64_t B = labels.size(0), H = labels.size(1), W = labels.size(2);
  const int64_t h = predictions.size(-2), w = predictions.size(-1), pixels = h * w;
  const int64_t segments = num_classes * B;
  const bool are_logits = predictions.dim() == 4;
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  TORCH_CHECK_VALUE(max_samples < kMost, "max_samples: got ", max_samples, ", want an int below 2^31 - 1");
  const int64_t candidates_size = most_candidates(segments, max_samples, max_views);
  TORCH_CHECK_VALUE(B * pixels <= int64_t{1} << 32 && pixels < kMost && std::max(H, W) <= kMost &&
                        2 * segments < kMost / 2 && candidates_size < kMost,
                    "labels: got ", B, " images of ", h, " x ", w, " pixels and ", num_classes, " classes, want fewer");
  const auto label_of = label_map("labels", labels);
  const int predictions_integer = are_logits ? 0 : integer_of("predictions", predictions);
  const c10::DeviceGuard guard(labels.device());

  const auto ints = labels.options().dtype(at::kInt);
  at::Tensor index = at::empty({max_samples}, labels.options().dtype(at::kLong));  // [max_samples]
  at::Tensor label = at::empty({max_samples}, ints);                               // [max_samples]
  at::Tensor total = at::empty({1}, ints);                                         // [1]
  // Of every group its pixels and its candidates; of every class its segments that give anchors, and those left out.
  const at::Tensor numbers = at::zeros({4 * segments + 2 * num_classes}, ints);
  const at::Tensor counts = numbers.slice(0, 0, 2 * segments), found = numbers.slice(0, 2 * segments, 4 * segments);
  at::Tensor taken = numbers.slice(0, 4 * segments).view({2, num_classes});  // [2, K]
  if (B * pixels == 0) return {index.fill_(-1), label.fill_(-1), total.zero_(), taken};

  const at::Tensor codes = at::empty({B * pixels}, ints);
  const Reading reading(predictions, num_classes);
  const Logits logits = are_logits ? logits_of(predictions) : Logits::kFloat;
  const int64_t steps = ceil_div<int64_t>(pixels, kCodesThreads * reading.pixels_per_thread);
  const int64_t fill = ceil_div<int64_t>(kBlocksPerMultiprocessor * device_limits(labels).multiprocessors, B);
  const int64_t blocks = std::min(steps, fill);  // an image
  const std::tuple predicted(predictions, predictions_integer, h, w, predictions.stride(0), predictions.stride(-2),
                             predictions.stride(-1));
  launch(codes_kernel(reading.predictions, logits), dim3(B * blocks), dim3(kCodesThreads), reading.shared, label_of,
         predicted, are_logits ? predictions.stride(1) : 0, codes, counts, B, num_classes, ignore_index, blocks,
         reading.bins, reading.is_aligned);

  const at::Tensor keep = at::empty({2 * segments}, ints), offset = at::empty({segments}, ints);
  const at::Tensor limit = at::empty({2 * segments}, ints.dtype(at::kUInt32));
  const at::Tensor begin = at::empty({2 * segments + 1}, ints);
  launch(choose_kernel(), dim3(1), dim3(kChooseThreads), 0, counts, seed, keep, limit, begin, offset, index, label,
         total, taken, segments, B, max_samples, std::min(max_views, kMost), std::min(min_pixels, kMost));

  const at::Tensor candidates = at::empty({candidates_size}, ints.dtype(at::kUInt32));
  launch(collect_kernel(), dim3(ceil_div<int64_t>(B * pixels, kCollectThreads * kCollectPixels)), dim3(kCollectThreads),
         0, codes, seed, limit, begin, found, candidates, B * pixels);
  launch(draw_kernel(), dim3(segments), dim3(kDrawThreads), 0, codes, seed, keep, begin, offset, found, candidates,
         index, label, B, pixels);
  return {index, label, total, taken};
}

TORCH_LIBRARY_IMPL(fastpixcon_native, CUDA, m) { m.impl("select_anchors", &select_anchors); }

}  // namespace fastpixcon
