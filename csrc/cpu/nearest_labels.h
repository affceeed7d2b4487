// Labels at the pixels of a smaller map: source index floor(i * H / h).
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/predicted_class.h"

namespace fastpixcon::cpu {

// Calls f(y, x, count, place in the range) for the parts of rows that make up the pixels [begin, end) of an image.
template <typename F>
void for_each_row(int64_t begin, int64_t end, int64_t w, F&& f) {
  for (int64_t pixel = begin; pixel < end;) {
    const int64_t x = pixel % w, count = std::min(w - x, end - pixel);
    f(pixel / w, x, count, pixel - begin);
    pixel += count;
  }
}

class NearestLabels {
 public:
  // labels [B, H, W] of any integer type, at [h, w]; `ignore` and negative ones do not count, others are below K.
  NearestLabels(const at::Tensor& labels, int64_t h, int64_t w, int64_t K, int64_t ignore)
      : labels_(labels), h_(h), w_(w), K_(K), ignore_(ignore), column_(w) {
    for (int64_t x = 0; x < w; ++x) column_[x] = x * labels.size(2) / w * labels.stride(2);
    read_ = with_integer("labels", labels.scalar_type(),
                         [](auto x) -> Read { return &NearestLabels::read_pixels<decltype(x)>; });
  }

  // Classes of the pixels [begin, end) of image b, -1 where they do not count. Returns the first of them with a label
  // >= K, or -1.
  int64_t read(int64_t b, int64_t begin, int64_t end, int32_t* out) const { return (this->*read_)(b, begin, end, out); }

  // Of the pixel b * h * w + y * w + x, whose label is >= K.
  void refuse(int64_t pixel) const {
    const int64_t b = pixel / (h_ * w_), y = pixel / w_ % h_, x = pixel % w_;
    const int64_t value = with_integer("labels", labels_.scalar_type(), [&](auto type) {
      return static_cast<int64_t>(row<decltype(type)>(b, y)[column_[x]]);
    });
    TORCH_CHECK_VALUE(false, "labels: got label ", value, ", want labels in [0, ", K_, ") or ignore_index");
  }

 private:
  using Read = int64_t (NearestLabels::*)(int64_t, int64_t, int64_t, int32_t*) const;

  template <typename label_t>
  const label_t* row(int64_t b, int64_t y) const {
    return labels_.const_data_ptr<label_t>() + b * labels_.stride(0) + y * labels_.size(1) / h_ * labels_.stride(1);
  }

  template <typename label_t>
  int64_t read_pixels(int64_t b, int64_t begin, int64_t end, int32_t* out) const {
    int64_t wrong = -1;
    for_each_row(begin, end, w_, [&](int64_t y, int64_t x, int64_t count, int64_t at) {
      const label_t* from = row<label_t>(b, y);
      const int64_t* column = column_.data() + x;
      bool bad = false;
      for (int64_t i = 0; i < count; ++i) {
        const int64_t label = static_cast<int64_t>(from[column[i]]);
        const bool counts = label >= 0 && label != ignore_;
        bad |= counts && label >= K_;
        out[at + i] = counts && label < K_ ? static_cast<int32_t>(label) : -1;
      }
      for (int64_t i = 0; bad && wrong < 0 && i < count; ++i) {
        const int64_t label = static_cast<int64_t>(from[column[i]]);
        if (label >= K_ && label != ignore_) wrong = at + i;
      }
    });
    return wrong;
  }

  const at::Tensor& labels_;
  int64_t h_, w_, K_, ignore_;
  std::vector<int64_t> column_;  // [w] where in its row the nearest label lies
  Read read_;
};

}  // namespace fastpixcon::cpu
