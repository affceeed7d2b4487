// What comes before and after the sweeps over contrast sets, row by row.
#include "common/hash.h"
#include "cuda/contrast.h"
#include "cuda/device_check.cuh"
#include "cuda/partial_sum.cuh"
#include "cuda/warp.cuh"

namespace fastpixcon {
namespace {

constexpr int kRowsOfBlock = kContrastThreads / kWarp;

__device__ int64_t place_of(const int64_t* source, int n) { return source == nullptr ? n : source[n]; }

// The sum of slots products [slots, N, D] of a number of a row.
__device__ float product_sum(const float* products, int slots, int64_t size, int64_t at) {
  float sum = 0;
  for (int slot = 0; slot < slots; ++slot) sum += products[slot * size + at];
  return sum;
}

}  // namespace

__global__ void __launch_bounds__(kContrastThreads)
    log_sums(const float* sums, const float* maxima, const int64_t* source, const float* temperature,
             const float* products, float* log_sum, float* mean, int N, int D, int slots) {
  FASTPIXCON_DEVICE_CHECK(is_temperature(*temperature), "temperature: not a number > 0 from 2^-126 on");
  const int n = blockIdx.x * kRowsOfBlock + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (n >= N) return;
  const int64_t to = place_of(source, n);
  float total = 0, log_total;
  if (maxima == nullptr) {
    for (int slot = 0; slot < slots; ++slot) total += sums[static_cast<int64_t>(slot) * N + n];
    log_total = PartialSum<true>{total}.log();
  } else {
    PartialSum<false> sum = PartialSum<false>::empty();
    for (int slot = 0; slot < slots; ++slot)
      sum.add(PartialSum<false>::load(sums, maxima, static_cast<int64_t>(slot) * N + n));
    total = sum.total, log_total = sum.log();
  }
  if (log_sum != nullptr && lane == 0) log_sum[to] = total == 0 ? -INFINITY : log_total;
  if (mean == nullptr) return;
  const float factor = total == 0 ? 0 : 1 / total;
  for (int d = lane; d < D; d += kWarp)
    mean[to * D + d] = product_sum(products, slots, static_cast<int64_t>(N) * D, to * D + d) * factor;
}

__global__ void __launch_bounds__(kContrastThreads)
    positive_sums(const float* losses, const float* weights, const float* masses, const int64_t* source,
                  const float* products, float* loss, float* weight, float* mass, float* pull, int N, int D, int slots,
                  bool means, const float* log_sums) {
  const int n = blockIdx.x * kRowsOfBlock + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (n >= N) return;
  const int64_t to = place_of(source, n);
  const bool is_void = log_sums != nullptr && log_sums[to] == -INFINITY;
  const auto unless_void = [&](float x) { return !is_void ? x : isinf(x) ? 0.0f : x * 0.0f; };  // what is NaN remains
  if (lane == 0) {
    const float of_all = product_sum(masses, slots, N, n);
    const float share = !means ? 1 : of_all > 0 ? 1 / of_all : 0;
    loss[to] = share == 0 ? 0 : unless_void(product_sum(losses, slots, N, n) * share);
    weight[to] = share == 0 ? 0 : product_sum(weights, slots, N, n) * share;
    mass[to] = of_all;
  }
  for (int d = lane; pull != nullptr && d < D; d += kWarp)
    pull[to * D + d] = unless_void(product_sum(products, slots, static_cast<int64_t>(N) * D, to * D + d));
}

__global__ void __launch_bounds__(kContrastThreads)
    mining(const float* mined, const int64_t* seed, const int64_t* source, float* mining, int N, int64_t first,
           int stream) {
  const int n = blockIdx.x * kContrastThreads + threadIdx.x;
  if (n >= N) return;
  const int64_t from = place_of(source, n);
  for (int64_t i = 0; i < 4; ++i) mining[i * N + n] = mined[i * N + from];
  mining[int64_t{4} * N + n] = __uint_as_float(hash32(hash_key(*seed, stream), first + from));
}

__global__ void __launch_bounds__(kContrastThreads) places(const int64_t* source, int32_t* places, int N) {
  const int n = blockIdx.x * kContrastThreads + threadIdx.x;
  if (n < N) places[source[n]] = n;
}

__global__ void __launch_bounds__(kContrastThreads)
    itself(const int64_t* source, const int32_t* places, int32_t* itself, int N, int M, int64_t first) {
  const int n = blockIdx.x * kContrastThreads + threadIdx.x;
  if (n >= N) return;
  const int64_t number = place_of(source, n) + first;
  itself[n] = number < 0 || number >= M ? -1 : places == nullptr ? static_cast<int32_t>(number) : places[number];
}

LogSumsKernel log_sums_kernel() { return &log_sums; }
PositiveSumsKernel positive_sums_kernel() { return &positive_sums; }
MiningKernel mining_kernel() { return &mining; }
PlacesKernel places_kernel() { return &places; }
ItselfKernel itself_kernel() { return &itself; }

}  // namespace fastpixcon
