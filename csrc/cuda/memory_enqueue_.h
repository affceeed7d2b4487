// The kernel of memory_enqueue_, for its host code.
#pragma once

#include <cstdint>
#include <tuple>

#include "cuda/dtype.h"

namespace fastpixcon {

constexpr int kEnqueueThreads = 256;

// What rows are written to; of any strides.
struct Bank {
  void* rows;        // [K, S, D]
  int32_t* labels;   // [K, S]
  int64_t* written;  // [2, K], of pixels and of regions
  int S, D, pixel_size;
  int64_t stride_c, stride_s, stride_d;  // of rows
  int64_t label_stride_c, label_stride_s;
  int64_t written_stride_r, written_stride_c;

  static constexpr auto kFields = std::tuple{
      &Bank::rows,           &Bank::labels,           &Bank::written,         &Bank::S,        &Bank::D,
      &Bank::pixel_size,     &Bank::stride_c,         &Bank::stride_s,        &Bank::stride_d, &Bank::label_stride_c,
      &Bank::label_stride_s, &Bank::written_stride_r, &Bank::written_stride_c};
};

// Rows without gaps.
struct NewRows {
  const void* rows;       // [n, D]
  const int32_t* labels;  // [n]
  int n, dtype;           // see Dtype

  static constexpr auto kFields = std::tuple{&NewRows::rows, &NewRows::labels, &NewRows::n, &NewRows::dtype};
};

// A block for each class and ring, grid [K, 2].
using EnqueueKernel = void (*)(Bank bank, NewRows pixels, NewRows regions);
EnqueueKernel enqueue_kernel(Dtype bank);

}  // namespace fastpixcon
