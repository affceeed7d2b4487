#include "cuda/architectures.h"

namespace fastpixcon {

const char* architectures() { return FASTPIXCON_CUDA_ARCHITECTURES; }

}  // namespace fastpixcon
