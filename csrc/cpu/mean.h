// The mean of losses over the anchors that have a positive, or their sum.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstdint>
#include <optional>

#include "common/operators.h"

namespace fastpixcon::cpu {

// What anchors weigh.
class AnchorWeights {
 public:
  explicit AnchorWeights(const InfoNCEMean& call) {
    if (call.anchor_weights.has_value()) given_ = call.anchor_weights->contiguous();
  }
  double at(int64_t i) const { return given_.has_value() ? given_->const_data_ptr<float>()[i] : 1; }
  const std::optional<at::Tensor>& given() const { return given_; }  // [N]; none: all weigh 1

 private:
  std::optional<at::Tensor> given_;
};

// What a loss of weight 1 is of the mean, where those that count have these weights together.
inline double share_of(const InfoNCEMean& call, double counted) {
  return call.mean && counted > 0 ? call.scale / counted : call.scale;
}

inline at::Tensor scalar(double value, const at::Tensor& like) {
  at::Tensor x = at::empty({}, like.options());
  *x.mutable_data_ptr<float>() = static_cast<float>(value);
  return x;
}

}  // namespace fastpixcon::cpu
