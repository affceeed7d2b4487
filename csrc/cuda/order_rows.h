// Few labels in order, for host code.
#pragma once

#include <cstdint>

namespace fastpixcon {

constexpr int kOrderThreads = 256, kOrderLanes = 8;  // of a block, of a row
constexpr int kMostOrdered = 4096;                   // rows; more are sorted in less time

// The places of N labels in order, as unsigned numbers, so that -1 is last; equal ones as they come. source [N]: where
// the row at a place comes from; values [N]: its label with the uppermost bit turned, of 64-bit labels, or null.
using OrderRowsKernel = void (*)(const void* labels, int64_t* source, int64_t* values, int N);
OrderRowsKernel order_rows_kernel(bool wide);

}  // namespace fastpixcon
