// Kernels of sm_90a twice: as they should be (name_sound) and with a fault (name_faulty).
#pragma once

#include "hopper.cuh"

#define TWICE(name)                                                                                              \
  extern "C" __global__ void __launch_bounds__(256) name##_sound(const float* x, float* y) { name<true>(x, y); } \
  extern "C" __global__ void __launch_bounds__(256) name##_faulty(const float* x, float* y) { name<false>(x, y); }
#define FAULT(name)     \
  template <bool SOUND> \
  __device__ void name(const float* x, float* y)
#define CLUSTER_OF_TWO(name)                                                                                        \
  extern "C" __global__ void __cluster_dims__(2, 1, 1) name##_sound(const float* x, float* y) { name<true>(x, y); } \
  extern "C" __global__ void __cluster_dims__(2, 1, 1) name##_faulty(const float* x, float* y) { name<false>(x, y); }

__device__ inline bool first() { return threadIdx.x == 0; }
