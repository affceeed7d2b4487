// select_anchors on the CPU (fastpixcon/reference/select_anchors.py is the contract).
//
// Two passes. The first reads labels and predictions once, writes a code per pixel and counts. The counts tell
// how many pixels each group keeps, and with that a threshold below which about as many keys lie: the second
// pass hashes the pixels and keeps the few below it. A group that got too few is searched again without one.

#include "cpu/select_anchors.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <tuple>
#include <utility>
#include <vector>

#include "common/checks.h"
#include "common/hash.h"
#include "cpu/nearest_labels.h"
#include "cpu/predicted_class.h"

namespace fastpixcon::cpu {
namespace {

constexpr int64_t kBlock = 1024;              // pixels whose labels and predictions stay in the first cache
constexpr uint64_t kAll = uint64_t{1} << 32;  // threshold above every key

struct Candidate {
  int64_t group;
  int64_t pixel;
  uint32_t key;
};

struct Segment {
  int64_t label;
  int64_t image;
  int64_t keep[2];  // hard, easy
  int64_t offset;   // where it writes
};

// A pixel's code is 0 if it does not count, else 1 + 2*class + easy; its group is image * codes + code.
struct Selection {
  int64_t B, h, w, K, codes;
  std::vector<int32_t> code;    // [B*h*w]
  std::vector<int64_t> counts;  // [B, codes]

  Selection(int64_t B, int64_t h, int64_t w, int64_t K)
      : B(B), h(h), w(w), K(K), codes(2 * K + 1), code(B * h * w), counts(B * codes) {}

  int64_t group(int64_t image, int64_t label, int easy) const { return image * codes + 1 + 2 * label + easy; }
};

// Predicted classes of the same pixels; what is no class of the K becomes -2, equal to no label.
template <typename class_t>
void read_classes(const at::Tensor& predictions, const Selection& s, int64_t b, int64_t begin, int64_t end,
                  int32_t* out) {
  const class_t* image = predictions.const_data_ptr<class_t>() + b * predictions.stride(0);
  const int64_t stride = predictions.stride(2);
  for_each_row(begin, end, s.w, [&](int64_t y, int64_t x, int64_t count, int64_t at) {
    const class_t* row = image + y * predictions.stride(1) + x * stride;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t c = static_cast<int64_t>(row[i * stride]);
      out[at + i] = c >= 0 && c < s.K ? static_cast<int32_t>(c) : -2;
    }
  });
}

template <typename Order>
void read_logits(const at::Tensor& logits, const Selection& s, int64_t b, int64_t begin, int64_t end, int32_t* out) {
  using raw_t = typename Order::raw_t;
  const raw_t* image = static_cast<const raw_t*>(logits.const_data_ptr()) + b * logits.stride(0);
  const int64_t stride_k = logits.stride(1), stride_y = logits.stride(2), stride_x = logits.stride(3);
  // Rows without a gap are one long row.
  const int64_t length = stride_y == s.w * stride_x ? s.h * s.w : s.w;
  for_each_row(begin, end, length, [&](int64_t y, int64_t x, int64_t count, int64_t at) {
    const raw_t* first = image + y * stride_y + x * stride_x;
    if (stride_k == 1 && stride_x != 1) {
      argmax_channels_last<Order>(first, stride_x, s.K, count, out + at);
    } else {
      argmax<Order>(first, stride_k, stride_x, s.K, count, out + at);
    }
  });
}

using ReadClasses = void (*)(const at::Tensor&, const Selection&, int64_t, int64_t, int64_t, int32_t*);

// First pass: codes and counts.
void count(const at::Tensor& labels, const at::Tensor& predictions, int64_t ignore, Selection& s) {
  const NearestLabels nearest(labels, s.h, s.w, s.K, ignore);
  const auto classes_of = predictions.dim() == 4
                              ? with_order("predictions", predictions.scalar_type(),
                                           [](auto x) -> ReadClasses { return &read_logits<decltype(x)>; })
                              : with_integer("predictions", predictions.scalar_type(),
                                             [](auto x) -> ReadClasses { return &read_classes<decltype(x)>; });

  const int64_t plane = s.h * s.w, blocks = (plane + kBlock - 1) / kBlock;  // of an image
  constexpr int64_t kLanes = 4;  // a run of one class would wait for its own counter
  std::mutex mutex;
  int64_t wrong = -1;  // the first pixel whose label is none
  at::parallel_for(0, s.B * blocks, 4, [&](int64_t begin, int64_t end) {
    int32_t label[kBlock], predicted[kBlock];
    std::vector<int64_t> lanes(kLanes * s.codes);
    int64_t bad = -1, counted_image = begin / blocks;
    const auto flush = [&](int64_t image) {
      const std::lock_guard<std::mutex> lock(mutex);
      for (int64_t c = 0; c < s.codes; ++c) {
        for (int64_t l = 0; l < kLanes; ++l) s.counts[image * s.codes + c] += std::exchange(lanes[l * s.codes + c], 0);
      }
    };
    for (int64_t block = begin; block < end; ++block) {
      const int64_t b = block / blocks, p0 = block % blocks * kBlock, p1 = std::min(plane, p0 + kBlock);
      const int64_t first = b * plane + p0, n = p1 - p0;
      if (b != counted_image) flush(std::exchange(counted_image, b));
      const int64_t at = nearest.read(b, p0, p1, label);
      if (at >= 0 && bad < 0) bad = first + at;
      classes_of(predictions, s, b, p0, p1, predicted);
      int32_t* code = s.code.data() + first;
      for (int64_t i = 0; i < n; ++i)
        code[i] = label[i] < 0 ? 0 : 1 + 2 * label[i] + (label[i] == predicted[i] ? 1 : 0);
      for (int64_t i = 0; i < n; ++i) ++lanes[i % kLanes * s.codes + code[i]];
    }
    flush(counted_image);
    const std::lock_guard<std::mutex> lock(mutex);
    if (bad >= 0 && (wrong < 0 || bad < wrong)) wrong = bad;
  });
  if (wrong >= 0) nearest.refuse(wrong);
}

// The segments that take part, in order (class, image), and what each keeps.
std::vector<Segment> choose_segments(const Selection& s, int64_t seed, int64_t max_samples, int64_t max_views,
                                     int64_t min_pixels) {
  const auto pixels = [&](int64_t image, int64_t label, int easy) { return s.counts[s.group(image, label, easy)]; };
  std::vector<int64_t> eligible;  // class * B + image
  for (int64_t number = 0; number < s.K * s.B; ++number) {
    if (pixels(number % s.B, number / s.B, 0) + pixels(number % s.B, number / s.B, 1) >= min_pixels) {
      eligible.push_back(number);
    }
  }
  const int64_t S = static_cast<int64_t>(eligible.size());
  const int64_t V = std::clamp<int64_t>(max_samples / std::max<int64_t>(1, S), 1, max_views);
  if (S > max_samples) {
    const uint32_t key = hash_key(seed, kSegmentStream);
    std::vector<std::pair<uint32_t, int64_t>> drawn;
    for (int64_t number : eligible) drawn.emplace_back(hash32(key, number), number);
    std::nth_element(drawn.begin(), drawn.begin() + max_samples, drawn.end());
    eligible.clear();
    for (int64_t i = 0; i < max_samples; ++i) eligible.push_back(drawn[i].second);
    std::sort(eligible.begin(), eligible.end());
  }
  std::vector<Segment> segments;
  int64_t offset = 0;
  for (int64_t number : eligible) {
    const int64_t label = number / s.B, image = number % s.B;
    const int64_t hard = pixels(image, label, 0), easy = pixels(image, label, 1);
    const int64_t views = std::min(V, hard + easy);
    int64_t keep = hard;
    if (2 * hard >= views) keep = 2 * easy >= views ? views / 2 : views - easy;
    segments.push_back({label, image, {keep, views - keep}, offset});
    offset += views;
  }
  return segments;
}

// Of every class, the segments that give anchors and those that are left out: to[2, K], zeros before.
void count_segments(const Selection& s, const std::vector<Segment>& segments, int32_t* to) {
  for (int64_t number = 0; number < s.K * s.B; ++number) {
    const int64_t g = s.group(number % s.B, number / s.B, 0);
    if (s.counts[g] + s.counts[g + 1] > 0) ++to[s.K + number / s.B];
  }
  for (const Segment& segment : segments) {
    ++to[segment.label];
    --to[s.K + segment.label];
  }
}

// So many of n uniform keys lie below it, with some to spare, that k are hardly ever missed.
uint64_t threshold_for(int64_t k, int64_t n) {
  if (k == 0) return 0;
  const double wanted = static_cast<double>(k) + 4 * std::sqrt(static_cast<double>(k)) + 8;
  return wanted >= static_cast<double>(n) ? kAll
                                          : static_cast<uint64_t>(wanted / static_cast<double>(n) * 4294967296.0);
}

// Second pass: the pixels whose key is below the threshold of their group, in any order.
void collect(const Selection& s, int64_t seed, const std::vector<uint64_t>& threshold, std::vector<Candidate>& found) {
  const uint32_t key = hash_key(seed);
  const int64_t plane = s.h * s.w, blocks = (plane + kBlock - 1) / kBlock;
  std::mutex mutex;
  at::parallel_for(0, s.B * blocks, 4, [&](int64_t begin, int64_t end) {
    std::vector<Candidate> local;
    uint32_t keys[kBlock];
    for (int64_t block = begin; block < end; ++block) {
      const int64_t image = block / blocks, first = image * plane + block % blocks * kBlock;
      const int64_t n = std::min(kBlock, (image + 1) * plane - first);
      const uint32_t upper = hash_upper(key, first), low = static_cast<uint32_t>(first);
      if (upper == hash_upper(key, first + n - 1)) {
        for (int64_t i = 0; i < n; ++i) keys[i] = mix32((low + static_cast<uint32_t>(i)) ^ upper);
      } else {
        for (int64_t i = 0; i < n; ++i) keys[i] = hash32(key, first + i);
      }
      const int32_t* code = s.code.data() + first;
      const uint64_t* below = threshold.data() + image * s.codes;
      for (int64_t i = 0; i < n; ++i) {
        if (keys[i] < below[code[i]]) local.push_back({image * s.codes + code[i], first + i, keys[i]});
      }
    }
    const std::lock_guard<std::mutex> lock(mutex);
    found.insert(found.end(), local.begin(), local.end());
  });
}

// Candidates of the kept groups, sorted into them: those of group g are candidates[start[g]:start[g + 1]].
std::vector<Candidate> candidates_by_group(const Selection& s, const std::vector<Segment>& segments, int64_t seed,
                                           std::vector<int64_t>& start) {
  const int64_t groups = s.B * s.codes;
  std::vector<uint64_t> threshold(groups);
  for (const Segment& segment : segments) {
    for (int easy : {0, 1}) {
      const int64_t g = s.group(segment.image, segment.label, easy);
      threshold[g] = threshold_for(segment.keep[easy], s.counts[g]);
    }
  }
  std::vector<Candidate> found;
  collect(s, seed, threshold, found);

  std::vector<int64_t> got(groups);
  for (const Candidate& c : found) ++got[c.group];
  std::vector<uint64_t> again(groups);
  bool any = false;
  for (const Segment& segment : segments) {
    for (int easy : {0, 1}) {
      const int64_t g = s.group(segment.image, segment.label, easy);
      if (got[g] >= segment.keep[easy]) continue;
      again[g] = kAll;
      any = true;
    }
  }
  if (any) {
    found.erase(std::remove_if(found.begin(), found.end(), [&](const Candidate& c) { return again[c.group] != 0; }),
                found.end());
    collect(s, seed, again, found);
    std::fill(got.begin(), got.end(), 0);
    for (const Candidate& c : found) ++got[c.group];
  }

  start.assign(groups + 1, 0);
  for (int64_t g = 0; g < groups; ++g) start[g + 1] = start[g] + got[g];
  std::vector<Candidate> sorted(found.size());
  std::vector<int64_t> next(start.begin(), start.end() - 1);
  for (const Candidate& c : found) sorted[next[c.group]++] = c;
  return sorted;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> select_anchors(const at::Tensor& labels,
                                                                          const at::Tensor& predictions,
                                                                          const at::Tensor& seed_, int64_t num_classes,
                                                                          int64_t max_samples, int64_t max_views,
                                                                          int64_t min_pixels, int64_t ignore_index) {
  check_select_anchors(labels, predictions, seed_, num_classes, max_samples, max_views, min_pixels);
  const int64_t B = labels.size(0), h = predictions.size(-2), w = predictions.size(-1);
  const int64_t seed = *seed_.const_data_ptr<int64_t>();

  at::Tensor index = at::empty({max_samples}, labels.options().dtype(at::kLong));    // [max_samples]
  at::Tensor label = at::empty({max_samples}, labels.options().dtype(at::kInt));     // [max_samples]
  at::Tensor total = at::empty({1}, labels.options().dtype(at::kInt));               // [1]
  at::Tensor taken = at::zeros({2, num_classes}, labels.options().dtype(at::kInt));  // [2, K] taken part, left out
  int64_t* index_out = index.mutable_data_ptr<int64_t>();
  int32_t* label_out = label.mutable_data_ptr<int32_t>();

  int64_t written = 0;
  if (B * h * w > 0) {
    Selection s(B, h, w, num_classes);
    count(labels, predictions, ignore_index, s);
    const std::vector<Segment> segments = choose_segments(s, seed, max_samples, max_views, min_pixels);
    count_segments(s, segments, taken.mutable_data_ptr<int32_t>());
    std::vector<int64_t> start;
    std::vector<Candidate> candidates = candidates_by_group(s, segments, seed, start);
    const auto smaller = [](const Candidate& a, const Candidate& b) {
      return std::tie(a.key, a.pixel) < std::tie(b.key, b.pixel);
    };
    at::parallel_for(0, static_cast<int64_t>(segments.size()), 32, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Segment& segment = segments[i];
        int64_t* to = index_out + segment.offset;
        for (int easy : {0, 1}) {
          const int64_t g = s.group(segment.image, segment.label, easy), k = segment.keep[easy];
          const auto first = candidates.begin() + start[g], last = candidates.begin() + start[g + 1];
          if (k < last - first) std::nth_element(first, first + k, last, smaller);
          for (int64_t n = 0; n < k; ++n) *to++ = first[n].pixel;
        }
        std::sort(index_out + segment.offset, to);
        std::fill(label_out + segment.offset, label_out + (to - index_out), static_cast<int32_t>(segment.label));
      }
    });
    if (!segments.empty()) written = segments.back().offset + segments.back().keep[0] + segments.back().keep[1];
  }
  std::fill(index_out + written, index_out + max_samples, -1);
  std::fill(label_out + written, label_out + max_samples, -1);
  *total.mutable_data_ptr<int32_t>() = static_cast<int32_t>(written);
  return {index, label, total, taken};
}

TORCH_LIBRARY_IMPL(fastpixcon_native, CPU, m) { m.impl("select_anchors", &select_anchors); }

}  // namespace fastpixcon::cpu
