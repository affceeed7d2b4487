// What nvcc compiled the kernels for.
#pragma once

namespace fastpixcon {

const char* architectures();  // as TORCH_CUDA_ARCH_LIST names them, between spaces

}  // namespace fastpixcon
