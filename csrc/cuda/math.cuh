// Functions of logits, in nats.
#pragma once

#include "cuda/ptx.cuh"

namespace fastpixcon {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// Beyond, it or its reciprocal is no finite float.
__device__ inline bool is_temperature(float x) { return x >= 0x1p-126f && x <= 0x1.fffffep127f; }

// log(1 + t) for 0 <= t <= 1, relative error below 2e-7: t times a polynomial, exact at 0.
__device__ inline float log1p_unit(float t) {
  float p = -0.0032440233f;
  p = fmaf(p, t, 0.0198514536f);
  p = fmaf(p, t, -0.0569595173f);
  p = fmaf(p, t, 0.106036536f);
  p = fmaf(p, t, -0.153055921f);
  p = fmaf(p, t, 0.196759388f);
  p = fmaf(p, t, -0.249541342f);
  p = fmaf(p, t, 0.333299637f);
  p = fmaf(p, t, -0.499999017f);
  p = fmaf(p, t, 1.0f);
  return p * t;
}

// log(1 + e^margin) and 1 / (1 + e^-margin).
__device__ inline void softplus_sigmoid(float margin, float& softplus, float& sigmoid) {
  const float t = exp2_fast(-fabsf(margin) * kLog2E);
  softplus = fmaxf(margin, 0.0f) + log1p_unit(t);
  sigmoid = __fdividef(margin >= 0 ? 1.0f : t, 1.0f + t);
}

__device__ inline float sigmoid(float margin) {
  const float t = exp2_fast(-fabsf(margin) * kLog2E);
  return __fdividef(margin >= 0 ? 1.0f : t, 1.0f + t);
}

}  // namespace fastpixcon
