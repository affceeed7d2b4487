// Which kernel for which dtype; no torch, for kernels are compiled without its headers.
#pragma once

namespace fastpixcon {

enum class Dtype { kFloat, kBFloat16, kHalf };

// Of numbers that a kernel reads one by one: it takes the dtype as an argument, not as a template's.
enum class Integer : int { kUInt8, kInt8, kUInt16, kInt16, kUInt32, kInt32, kInt64 };

}  // namespace fastpixcon
