// gather_normalize on the CPU: N pixels of a feature map as unit rows, and the gradient map from theirs.
//
// Of an NCHW map every value of a row lies on another page. The pixels are therefore visited in the order of
// their place in the map, a cache line's worth of channels at a time: a few pages stay open, lines of
// neighbouring pixels are read once, and the lines of the rows are written whole.

#include "cpu/gather_normalize.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#include "common/checks.h"
#include "cpu/inverse_norm.h"
#include "cpu/scratch.h"

namespace fastpixcon::cpu {
namespace {

constexpr int64_t kLine = 64;  // bytes of a cache line
constexpr int64_t kLanes = 8;  // partial sums, so that the compiler may use vectors

#define FASTPIXCON_DISPATCH(TYPE, NAME, ...)                                                                \
  AT_DISPATCH_SWITCH(TYPE, NAME,                                                                            \
                     AT_DISPATCH_CASE(at::kFloat, __VA_ARGS__) AT_DISPATCH_CASE(at::kBFloat16, __VA_ARGS__) \
                         AT_DISPATCH_CASE(at::kHalf, __VA_ARGS__))

struct Anchor {
  int64_t pixel;  // b*h*w + y*w + x
  int64_t row;
  bool operator<(const Anchor& other) const { return std::tie(pixel, row) < std::tie(other.pixel, other.row); }
};

// The anchors that are no padding, in the order of their pixels, equal pixels in the order of their rows.
std::vector<Anchor> anchors_by_pixel(const at::Tensor& index, int64_t pixels) {
  const int64_t* data = index.const_data_ptr<int64_t>();  // [N]
  std::vector<Anchor> anchors;
  anchors.reserve(index.numel());
  for (int64_t n = 0; n < index.numel(); ++n) {
    TORCH_CHECK_VALUE(data[n] >= -1 && data[n] < pixels, "index: got ", data[n], " at [", n, "], want values in [-1, ",
                      pixels, "), the pixels of embeddings");
    if (data[n] >= 0) anchors.push_back({data[n], n});
  }
  std::sort(anchors.begin(), anchors.end());
  return anchors;
}

template <typename acc_t, typename scalar_t>
acc_t dot(const scalar_t* a, const scalar_t* b, int64_t D) {
  acc_t lanes[kLanes] = {};
  int64_t d = 0;
  for (; d + kLanes <= D; d += kLanes) {
    for (int64_t i = 0; i < kLanes; ++i) lanes[i] += static_cast<acc_t>(a[d + i]) * static_cast<acc_t>(b[d + i]);
  }
  for (; d < D; ++d) lanes[0] += static_cast<acc_t>(a[d]) * static_cast<acc_t>(b[d]);
  for (int64_t step = kLanes / 2; step > 0; step /= 2) {
    for (int64_t i = 0; i < step; ++i) lanes[i] += lanes[i + step];
  }
  return lanes[0];
}

template <typename scalar_t>
void gather(const at::Tensor& embeddings, const std::vector<Anchor>& anchors, scalar_t* rows) {
  const int64_t D = embeddings.size(1), h = embeddings.size(2), w = embeddings.size(3);
  const int64_t stride_b = embeddings.stride(0), stride_d = embeddings.stride(1);
  const int64_t stride_y = embeddings.stride(2), stride_x = embeddings.stride(3);
  const scalar_t* map = embeddings.const_data_ptr<scalar_t>();

  constexpr int64_t kAnchors = 128;  // per task
  if (D == 0) return;
  const int64_t block = stride_d == 1 ? D : kLine / static_cast<int64_t>(sizeof(scalar_t));
  const int64_t blocks = (D + block - 1) / block;
  const int64_t N = static_cast<int64_t>(anchors.size());
  const int64_t tasks = (N + kAnchors - 1) / kAnchors * blocks;
  const int64_t grain = std::max<int64_t>(1, 8192 / (kAnchors * block));
  at::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task / blocks * kAnchors, last = std::min(N, first + kAnchors);
      const int64_t d0 = task % blocks * block, width = std::min(block, D - d0);
      for (int64_t n = first; n < last; ++n) {
        const int64_t pixel = anchors[n].pixel;
        const scalar_t* from =
            map + pixel / (h * w) * stride_b + d0 * stride_d + pixel / w % h * stride_y + pixel % w * stride_x;
        scalar_t* to = rows + anchors[n].row * D + d0;
        if (stride_d == 1) {
          std::memcpy(to, from, width * sizeof(scalar_t));
        } else {
          for (int64_t d = 0; d < width; ++d) to[d] = from[d * stride_d];
        }
      }
    }
  });
}

// The norm is taken in float64, so neither huge nor tiny rows overflow or vanish.
template <typename scalar_t>
void normalize_(scalar_t* rows, float* inv_norm, const int64_t* index, int64_t N, int64_t D) {
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, D));
  at::parallel_for(0, N, grain, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      scalar_t* row = rows + n * D;
      if (index[n] < 0) {
        std::fill_n(row, D, scalar_t(0));
        inv_norm[n] = 0;
        continue;
      }
      const double inverse = inverse_norm(std::sqrt(dot<double>(row, row, D)));
      for (int64_t d = 0; d < D; ++d) row[d] = static_cast<scalar_t>(static_cast<float>(row[d] * inverse));
      inv_norm[n] = static_cast<float>(inverse);
    }
  });
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> gather_normalize(const at::Tensor& embeddings, const at::Tensor& index_) {
  check_gather_normalize(embeddings, index_);
  const int64_t N = index_.size(0), D = embeddings.size(1);
  const at::Tensor index = index_.contiguous();
  const auto anchors = anchors_by_pixel(index, embeddings.size(0) * embeddings.size(2) * embeddings.size(3));

  at::Tensor rows = at::empty({N, D}, embeddings.options());                     // [N, D]
  at::Tensor inv_norm = at::empty({N}, embeddings.options().dtype(at::kFloat));  // [N]
  FASTPIXCON_DISPATCH(embeddings.scalar_type(), "gather_normalize", [&] {
    gather(embeddings, anchors, rows.mutable_data_ptr<scalar_t>());
    normalize_(rows.mutable_data_ptr<scalar_t>(), inv_norm.mutable_data_ptr<float>(), index.const_data_ptr<int64_t>(),
               N, D);
  });
  return {rows, inv_norm};
}

namespace {

// The gradients of the distinct pixels, ascending.
struct Gradients {
  const std::vector<Anchor>& anchors;
  std::vector<int64_t> first;  // [U + 1]: anchors[first[u]:first[u + 1]] share pixel u

  explicit Gradients(const std::vector<Anchor>& sorted) : anchors(sorted) {
    for (size_t n = 0; n < anchors.size(); ++n) {
      if (n == 0 || anchors[n].pixel != anchors[n - 1].pixel) first.push_back(static_cast<int64_t>(n));
    }
    first.push_back(static_cast<int64_t>(anchors.size()));
  }
  int64_t size() const { return static_cast<int64_t>(first.size()) - 1; }
  int64_t pixel(int64_t u) const { return anchors[first[u]].pixel; }

  // The first u whose pixel is not before the given one.
  int64_t from(int64_t wanted) const {
    const auto before = [this](int64_t start, int64_t p) { return anchors[start].pixel < p; };
    return std::lower_bound(first.begin(), first.end() - 1, wanted, before) - first.begin();
  }

  // d_pixel [D] = the sum over the anchors of pixel u, in the order of their rows, of (g - (g.r) r) / |e|
  template <typename scalar_t>
  void sum(int64_t u, const scalar_t* d_rows, const scalar_t* rows, const float* inv_norm, int64_t D,
           float* d_pixel) const {
    std::fill_n(d_pixel, D, 0.0f);
    for (int64_t n = first[u]; n < first[u + 1]; ++n) {
      const scalar_t* g = d_rows + anchors[n].row * D;
      const scalar_t* r = rows + anchors[n].row * D;
      const float along = dot<float>(g, r, D), scale = inv_norm[anchors[n].row];
      for (int64_t d = 0; d < D; ++d)
        d_pixel[d] += (static_cast<float>(g[d]) - along * static_cast<float>(r[d])) * scale;
    }
  }
};

constexpr int64_t kZeroBytes = 128 * 1024;  // zeroed, then written into while still in the cache

template <typename scalar_t>
void scatter_nchw(const Gradients& gradients, const scalar_t* d_rows, const scalar_t* rows, const float* inv_norm,
                  int64_t B, int64_t D, int64_t plane, scalar_t* map) {
  // Transposed, so that a plane finds its values side by side.
  constexpr int64_t kTile = kLine / sizeof(float);
  const int64_t U = gradients.size();
  std::vector<int64_t> pixel(U);
  for (int64_t u = 0; u < U; ++u) pixel[u] = gradients.pixel(u);
  const at::Tensor transposed = at::empty({D, U}, at::kFloat);  // [D, U]
  float* d_pixels = transposed.mutable_data_ptr<float>();
  at::parallel_for(0, (U + kTile - 1) / kTile, 4, [&](int64_t begin, int64_t end) {
    std::vector<float> tile(kTile * D);
    for (int64_t t = begin; t < end; ++t) {
      const int64_t u0 = t * kTile, count = std::min(kTile, U - u0);
      for (int64_t i = 0; i < count; ++i) gradients.sum(u0 + i, d_rows, rows, inv_norm, D, tile.data() + i * D);
      for (int64_t d = 0; d < D; ++d) {
        for (int64_t i = 0; i < count; ++i) d_pixels[d * U + u0 + i] = tile[i * D + d];
      }
    }
  });

  const int64_t step = std::max<int64_t>(1, kZeroBytes / static_cast<int64_t>(sizeof(scalar_t)));
  const int64_t grain = std::max<int64_t>(1, step / std::max<int64_t>(1, plane));
  at::parallel_for(0, B * D, grain, [&](int64_t begin, int64_t end) {
    for (int64_t bd = begin; bd < end; ++bd) {
      const int64_t b = bd / D;
      const float* values = d_pixels + bd % D * U;
      scalar_t* to = map + bd * plane - b * plane;  // indexed by pixels, which count the images before
      int64_t u = std::lower_bound(pixel.begin(), pixel.end(), b * plane) - pixel.begin();
      for (int64_t p0 = b * plane; p0 < (b + 1) * plane; p0 += step) {
        const int64_t p1 = std::min(p0 + step, (b + 1) * plane);
        std::memset(static_cast<void*>(to + p0), 0, (p1 - p0) * sizeof(scalar_t));
        for (; u < U && pixel[u] < p1; ++u) to[pixel[u]] = static_cast<scalar_t>(values[u]);
      }
    }
  });
}

template <typename scalar_t>
void scatter_channels_last(const Gradients& gradients, const scalar_t* d_rows, const scalar_t* rows,
                           const float* inv_norm, int64_t pixels, int64_t D, scalar_t* map) {
  const int64_t step = std::max<int64_t>(1, kZeroBytes / static_cast<int64_t>(sizeof(scalar_t) * D));
  at::parallel_for(0, pixels, step, [&](int64_t begin, int64_t end) {
    std::vector<float> d_pixel(D);
    int64_t u = gradients.from(begin);
    for (int64_t p0 = begin; p0 < end; p0 += step) {
      const int64_t p1 = std::min(p0 + step, end);
      std::memset(static_cast<void*>(map + p0 * D), 0, (p1 - p0) * D * sizeof(scalar_t));
      for (; u < gradients.size() && gradients.pixel(u) < p1; ++u) {
        gradients.sum(u, d_rows, rows, inv_norm, D, d_pixel.data());
        scalar_t* to = map + gradients.pixel(u) * D;
        for (int64_t d = 0; d < D; ++d) to[d] = static_cast<scalar_t>(d_pixel[d]);
      }
    }
  });
}

at::Tensor gather_normalize_backward(const at::Tensor& d_rows_, const at::Tensor& rows_, const at::Tensor& inv_norm_,
                                     const at::Tensor& index_, at::IntArrayRef size, bool channels_last) {
  check_gather_normalize_backward(d_rows_, rows_, inv_norm_, index_, size);
  const int64_t B = size[0], D = size[1], plane = size[2] * size[3];
  const at::Tensor rows = rows_.contiguous(), d_rows = d_rows_.to(rows.scalar_type()).contiguous();
  const at::Tensor inv_norm = inv_norm_.contiguous(), index = index_.contiguous();
  const auto anchors = anchors_by_pixel(index, B * plane);
  const Gradients gradients(anchors);

  const auto layout = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  at::Tensor d_embeddings = at::empty(size, rows.options(), layout);  // [B, D, h, w]
  if (d_embeddings.numel() == 0) return d_embeddings;
  FASTPIXCON_DISPATCH(rows.scalar_type(), "gather_normalize_backward", [&] {
    scalar_t* map = d_embeddings.mutable_data_ptr<scalar_t>();
    const scalar_t *g = d_rows.const_data_ptr<scalar_t>(), *r = rows.const_data_ptr<scalar_t>();
    const float* scale = inv_norm.const_data_ptr<float>();
    prefer_huge_pages(map, d_embeddings.nbytes());
    if (channels_last) {
      scatter_channels_last(gradients, g, r, scale, B * plane, D, map);
    } else {
      scatter_nchw(gradients, g, r, scale, B, D, plane, map);
    }
  });
  return d_embeddings;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CPU, m) {
  m.impl("gather_normalize", &gather_normalize);
  m.impl("gather_normalize_backward", &gather_normalize_backward);
}

}  // namespace fastpixcon::cpu
