// Classes of a block of pixels: nearest labels, integer predictions, or the argmax of logits, all brought to int32.
#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <limits>

namespace fastpixcon::cpu {

// Calls f with a value of the integer type.
template <typename F>
auto with_integer(const char* name, at::ScalarType type, F&& f) {
  switch (type) {
    case at::kByte: return f(uint8_t{});
    case at::kChar: return f(int8_t{});
    case at::kShort: return f(int16_t{});
    case at::kInt: return f(int32_t{});
    case at::kLong: return f(int64_t{});
    case at::kUInt16: return f(uint16_t{});
    case at::kUInt32: return f(uint32_t{});
    default: TORCH_CHECK_TYPE(false, name, ": got dtype ", type, ", want an integer one");
  }
}

// Logits as values that compare like them, NaN below all and both zeros equal.
struct Float32Order {
  using raw_t = float;
  using key_t = float;
  static constexpr key_t kLowest = -std::numeric_limits<float>::infinity();
  static key_t key(raw_t x) { return x; }  // x > y is false if one is NaN
};
struct Float64Order {
  using raw_t = double;
  using key_t = double;
  static constexpr key_t kLowest = -std::numeric_limits<double>::infinity();
  static key_t key(raw_t x) { return x; }
};
template <int32_t kInfinity>  // the bits of +inf in a 16-bit format
struct Bits16Order {
  using raw_t = uint16_t;
  using key_t = int32_t;
  static constexpr key_t kLowest = -kInfinity;
  static key_t key(raw_t x) {
    const int32_t magnitude = x & 0x7FFF;
    const int32_t value = (x & 0x8000) != 0 ? -magnitude : magnitude;
    return magnitude > kInfinity ? std::numeric_limits<int32_t>::min() : value;
  }
};

// Calls f with the order of the floating point type.
template <typename F>
auto with_order(const char* name, at::ScalarType type, F&& f) {
  switch (type) {
    case at::kFloat: return f(Float32Order{});
    case at::kDouble: return f(Float64Order{});
    case at::kBFloat16: return f(Bits16Order<0x7F80>{});
    case at::kHalf: return f(Bits16Order<0x7C00>{});
    default: TORCH_CHECK_TYPE(false, name, ": got dtype ", type, ", want float32, float64, bfloat16 or float16");
  }
}

// winner[i] = argmax of logits[k * stride_k + i * stride_i] over k: the lowest class on ties, NaN never wins.
template <typename Order>
void argmax(const typename Order::raw_t* logits, int64_t stride_k, int64_t stride_i, int64_t K, int64_t count,
            int32_t* winner) {
  using key_t = typename Order::key_t;
  constexpr int64_t kTile = 512;  // pixels whose best values stay in the first cache
  key_t best[kTile];
  for (int64_t i0 = 0; i0 < count; i0 += kTile) {
    const int64_t n = std::min(kTile, count - i0);
    int32_t* win = winner + i0;
    std::fill_n(best, n, Order::kLowest);
    std::fill_n(win, n, 0);
    for (int64_t k = 0; k < K; ++k) {
      const auto* from = logits + k * stride_k + i0 * stride_i;
      const auto take = [&](int64_t i, key_t value) {
        const bool better = value > best[i];
        best[i] = better ? value : best[i];
        win[i] = better ? static_cast<int32_t>(k) : win[i];
      };
      if (stride_i == 1) {
        for (int64_t i = 0; i < n; ++i) take(i, Order::key(from[i]));
      } else {
        for (int64_t i = 0; i < n; ++i) take(i, Order::key(from[i * stride_i]));
      }
    }
  }
}

// What the argmax needs where the classes of a pixel lie side by side.
template <typename Order>
void argmax_channels_last(const typename Order::raw_t* logits, int64_t stride_i, int64_t K, int64_t count,
                          int32_t* winner) {
  using key_t = typename Order::key_t;
  constexpr int64_t kPixels = 8;  // independent chains
  for (int64_t i0 = 0; i0 < count; i0 += kPixels) {
    const int64_t n = std::min(kPixels, count - i0);
    key_t best[kPixels];
    int32_t win[kPixels] = {};
    std::fill_n(best, kPixels, Order::kLowest);
    const auto* from = logits + i0 * stride_i;
    for (int64_t k = 0; k < K; ++k) {
      for (int64_t i = 0; i < n; ++i) {
        const key_t value = Order::key(from[i * stride_i + k]);
        const bool better = value > best[i];
        best[i] = better ? value : best[i];
        win[i] = better ? static_cast<int32_t>(k) : win[i];
      }
    }
    std::copy_n(win, n, winner + i0);
  }
}

}  // namespace fastpixcon::cpu
