// Which kernel for which dtype; no torch, for kernels are compiled without its headers.
#pragma once

namespace fastpixcon {

enum class Dtype { kFloat, kBFloat16, kHalf };

}  // namespace fastpixcon
