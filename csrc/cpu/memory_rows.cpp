// memory_rows on the CPU (fastpixcon/ops/memory_rows.py is the contract): the map is read once, a block of pixels at a
// time: their norms, then sums by class and the drawn pixels, while the block is in the cache.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <queue>
#include <tuple>
#include <utility>
#include <vector>

#include "common/checks.h"
#include "common/hash.h"
#include "cpu/inverse_norm.h"
#include "cpu/nearest_labels.h"

namespace fastpixcon::cpu {
namespace {

using at::Tensor;
constexpr int64_t kPixels = 256;      // of a block
constexpr int64_t kStripes = 4;       // of an image, whose sums are apart; as many for any number of threads
constexpr double kMinMean = 0x1p-16;  // a shorter mean of unit rows has no direction

struct Sizes {
  int64_t B, D, h, w, K, P;
  int64_t plane() const { return h * w; }
};

// Classes of all pixels, [B*h*w], -1 where they do not count.
std::vector<int32_t> classes_of(const Tensor& labels, const Sizes& size, int64_t ignore) {
  const NearestLabels nearest(labels, size.h, size.w, size.K, ignore);
  std::vector<int32_t> classes(size.B * size.plane());
  std::mutex mutex;
  int64_t wrong = -1;
  at::parallel_for(0, size.B * size.plane(), 2048, [&](int64_t begin, int64_t end) {
    for_each_row(begin, end, size.plane(), [&](int64_t b, int64_t first, int64_t count, int64_t from) {
      const int64_t at = nearest.read(b, first, first + count, classes.data() + begin + from);
      if (at < 0) return;
      const std::lock_guard<std::mutex> lock(mutex);
      if (wrong < 0 || begin + from + at < wrong) wrong = begin + from + at;
    });
  });
  if (wrong >= 0) nearest.refuse(wrong);
  return classes;
}

// A pixel of image b, and which row of the result it becomes.
struct Drawn {
  int64_t pixel, row;
};

// Of each class of image b the P pixels of smallest (hash, pixel), in the order of pixels.
std::vector<Drawn> draw(const std::vector<int32_t>& classes, const Sizes& size, int64_t b, uint32_t key) {
  using Keyed = std::pair<uint32_t, int64_t>;
  std::vector<std::priority_queue<Keyed>> smallest(size.K);
  for (int64_t p = 0; p < size.plane(); ++p) {
    const int64_t pixel = b * size.plane() + p;
    const int32_t c = classes[pixel];
    if (c < 0) continue;
    auto& of = smallest[c];
    const Keyed keyed{hash32(key, pixel), pixel};
    if (static_cast<int64_t>(of.size()) < size.P) {
      of.push(keyed);
    } else if (keyed < of.top()) {
      of.pop();
      of.push(keyed);
    }
  }
  std::vector<Drawn> drawn;
  for (int64_t c = 0; c < size.K; ++c)
    for (; !smallest[c].empty(); smallest[c].pop())
      drawn.push_back(
          {smallest[c].top().second, (b * size.K + c) * size.P + static_cast<int64_t>(smallest[c].size()) - 1});
  std::sort(drawn.begin(), drawn.end(), [](const Drawn& x, const Drawn& y) { return x.pixel < y.pixel; });
  return drawn;
}

// Pixels side by side in a row of the map, and the map at the first of them.
template <typename scalar_t>
struct Block {
  const scalar_t* x;  // [D][count]
  int64_t stride_d, stride_x, count;
  const int32_t* classes;  // [count]
};

template <typename scalar_t>
void inverse_norms(const Block<scalar_t>& block, int64_t D, double* inverse) {
  double squares[kPixels] = {};
  if (block.stride_d == 1) {
    for (int64_t p = 0; p < block.count; ++p) {
      const scalar_t* x = block.x + p * block.stride_x;
      double lanes[8] = {};
      for (int64_t d = 0; d < D; ++d) lanes[d % 8] += static_cast<double>(x[d]) * static_cast<double>(x[d]);
      for (double part : lanes) squares[p] += part;
    }
  } else {
    for (int64_t d = 0; d < D; ++d) {
      const scalar_t* x = block.x + d * block.stride_d;
      if (block.stride_x == 1) {
        for (int64_t p = 0; p < block.count; ++p) squares[p] += static_cast<double>(x[p]) * static_cast<double>(x[p]);
      } else {
        for (int64_t p = 0; p < block.count; ++p)
          squares[p] += static_cast<double>(x[p * block.stride_x]) * static_cast<double>(x[p * block.stride_x]);
      }
    }
  }
  for (int64_t p = 0; p < block.count; ++p) inverse[p] = inverse_norm(std::sqrt(squares[p]));
}

// sums [K][D] += unit embeddings by class, units [K] += how many. Labels come in runs.
template <typename scalar_t>
void add_regions(const Block<scalar_t>& block, int64_t D, const double* inverse, float* sums, int64_t* units) {
  for (int64_t p = 0; p < block.count; ++p)
    if (block.classes[p] >= 0) units[block.classes[p]] += inverse[p] != 0;
  float scale[kPixels];
  for (int64_t p = 0; p < block.count; ++p) scale[p] = static_cast<float>(inverse[p]);
  const bool tiny_or_huge =
      std::any_of(inverse, inverse + block.count, [](double x) { return x != 0 && (x < 1e-30 || x > 1e30); });
  if (block.stride_d == 1) {
    for (int64_t p = 0; p < block.count; ++p) {
      if (block.classes[p] < 0) continue;
      float* sum = sums + block.classes[p] * D;
      const scalar_t* x = block.x + p * block.stride_x;
      for (int64_t d = 0; d < D; ++d)
        sum[d] += tiny_or_huge ? static_cast<float>(static_cast<double>(x[d]) * inverse[p])
                               : static_cast<float>(x[d]) * scale[p];
    }
    return;
  }
  for (int64_t first = 0, last; first < block.count; first = last) {
    const int32_t c = block.classes[first];
    for (last = first + 1; last < block.count && block.classes[last] == c;) ++last;
    if (c < 0) continue;
    float* sum = sums + c * D;
    for (int64_t d = 0; d < D; ++d) {
      const scalar_t* x = block.x + d * block.stride_d;
      float total = 0;
      if (tiny_or_huge || block.stride_x != 1) {
        for (int64_t p = first; p < last; ++p)
          total += static_cast<float>(static_cast<double>(x[p * block.stride_x]) * inverse[p]);
      } else {
        float lanes[16] = {};
        int64_t p = first;
        for (; p + 16 <= last; p += 16)
          for (int64_t l = 0; l < 16; ++l) lanes[l] += static_cast<float>(x[p + l]) * scale[p + l];
        for (; p < last; ++p) total += static_cast<float>(x[p]) * scale[p];
        for (float part : lanes) total += part;
      }
      sum[d] += total;
    }
  }
}

template <typename scalar_t>
void read_map(const Tensor& embeddings, const std::vector<int32_t>& classes,
              const std::vector<std::vector<Drawn>>& drawn, const Sizes& size, scalar_t* pixels, int32_t* pixel_labels,
              float* sums, int64_t* units) {
  // Of whole rows, where there are some; of a single one, [B, D, 1, n], of pixels.
  const int64_t plane = size.plane();
  const int64_t stripe_size =
      size.h >= kStripes ? (size.h + kStripes - 1) / kStripes * size.w : (plane + kStripes - 1) / kStripes;
  // Rows without a gap are one long row.
  const int64_t row_length = embeddings.stride(2) == size.w * embeddings.stride(3) ? plane : size.w;
  at::parallel_for(0, size.B * kStripes, 1, [&](int64_t begin, int64_t end) {
    double inverse[kPixels];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / kStripes, p0 = std::min(plane, task % kStripes * stripe_size);
      const int64_t p1 = std::min(plane, p0 + stripe_size);
      float* stripe = sums + task * size.K * size.D;  // [K][D]
      auto next = std::lower_bound(drawn[b].begin(), drawn[b].end(), b * plane + p0,
                                   [](const Drawn& x, int64_t pixel) { return x.pixel < pixel; });
      for_each_row(p0, p1, row_length, [&](int64_t y, int64_t x0, int64_t length, int64_t at) {
        for (int64_t x = 0; x < length; x += kPixels) {
          const int64_t pixel = b * plane + p0 + at + x;
          const Block<scalar_t> block{embeddings.const_data_ptr<scalar_t>() + b * embeddings.stride(0) +
                                          y * embeddings.stride(2) + (x0 + x) * embeddings.stride(3),
                                      embeddings.stride(1), embeddings.stride(3), std::min(kPixels, length - x),
                                      classes.data() + pixel};
          inverse_norms(block, size.D, inverse);
          add_regions(block, size.D, inverse, stripe, units + task * size.K);
          for (; next != drawn[b].end() && next->pixel < pixel + block.count; ++next) {
            const int64_t p = next->pixel - pixel;
            if (inverse[p] == 0 || std::isnan(inverse[p])) pixel_labels[next->row] = -1;
            scalar_t* row = pixels + next->row * size.D;
            for (int64_t d = 0; d < size.D; ++d) {
              const double value = static_cast<double>(block.x[d * block.stride_d + p * block.stride_x]);
              row[d] = inverse[p] == 0 ? scalar_t(0) : static_cast<scalar_t>(static_cast<float>(value * inverse[p]));
            }
          }
        }
      });
    }
  });
}

// Unit rows of the stripes' sums, zeros of those that cancel; label -1 of these and of those that are not finite.
template <typename scalar_t>
void normalize_regions(const float* sums, const int64_t* units, const Sizes& size, scalar_t* regions,
                       int32_t* region_labels) {
  at::parallel_for(0, size.B * size.K, 8, [&](int64_t begin, int64_t end) {
    std::vector<double> total(size.D);
    for (int64_t segment = begin; segment < end; ++segment) {
      const int64_t b = segment / size.K, c = segment % size.K;
      double squares = 0;
      int64_t count = 0;
      for (int64_t s = 0; s < kStripes; ++s) count += units[(b * kStripes + s) * size.K + c];
      for (int64_t d = 0; d < size.D; ++d) {
        total[d] = 0;
        for (int64_t s = 0; s < kStripes; ++s) total[d] += sums[((b * kStripes + s) * size.K + c) * size.D + d];
        squares += total[d] * total[d];
      }
      const double norm = std::sqrt(squares);
      const bool cancels = norm <= kMinMean * count;
      if (cancels || std::isnan(norm)) region_labels[segment] = -1;
      scalar_t* row = regions + segment * size.D;
      for (int64_t d = 0; d < size.D; ++d)
        row[d] = cancels ? scalar_t(0) : static_cast<scalar_t>(static_cast<float>(total[d] / norm));
    }
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> memory_rows(const Tensor& embeddings, const Tensor& labels,
                                                       const Tensor& seed, int64_t num_classes,
                                                       int64_t pixels_per_image, int64_t ignore_index) {
  check_memory_rows(embeddings, labels, seed, num_classes, pixels_per_image);
  const Sizes size{embeddings.size(0), embeddings.size(1), embeddings.size(2),
                   embeddings.size(3), num_classes,        pixels_per_image};
  const auto options = embeddings.options().memory_format(at::MemoryFormat::Contiguous);
  Tensor pixels = at::zeros({size.B, size.K, size.P, size.D}, options);
  Tensor regions = at::zeros({size.B, size.K, size.D}, options);
  Tensor pixel_labels = at::empty({size.B, size.K, size.P}, options.dtype(at::kInt));
  Tensor region_labels = at::empty({size.B, size.K}, options.dtype(at::kInt));
  pixel_labels.fill_(-1);
  region_labels.fill_(-1);
  if (size.B * size.plane() == 0) return {pixels, pixel_labels, regions, region_labels};

  const std::vector<int32_t> classes = classes_of(labels, size, ignore_index);
  const uint32_t key = hash_key(*seed.const_data_ptr<int64_t>(), kMemoryStream);
  std::vector<std::vector<Drawn>> drawn(size.B);
  int32_t *of_pixel = pixel_labels.mutable_data_ptr<int32_t>(), *of_region = region_labels.mutable_data_ptr<int32_t>();
  at::parallel_for(0, size.B, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      drawn[b] = draw(classes, size, b, key);
      for (const Drawn& pixel : drawn[b]) {
        const int64_t segment = pixel.row / size.P;
        of_pixel[pixel.row] = of_region[segment] = static_cast<int32_t>(segment % size.K);
      }
    }
  });
  const Tensor sums = at::zeros({size.B, kStripes, size.K, size.D}, options.dtype(at::kFloat));
  std::vector<int64_t> units(size.B * kStripes * size.K);
  AT_DISPATCH_SWITCH(embeddings.scalar_type(), "memory_rows",
                     AT_DISPATCH_CASE_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, [&] {
                       read_map(embeddings, classes, drawn, size, pixels.mutable_data_ptr<scalar_t>(), of_pixel,
                                sums.mutable_data_ptr<float>(), units.data());
                       normalize_regions(sums.const_data_ptr<float>(), units.data(), size,
                                         regions.mutable_data_ptr<scalar_t>(), of_region);
                     }));
  return {pixels, pixel_labels, regions, region_labels};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CPU, m) { m.impl("memory_rows", memory_rows); }

}  // namespace fastpixcon::cpu
