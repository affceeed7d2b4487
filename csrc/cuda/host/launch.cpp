#include "cuda/host/launch.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <dlfcn.h>

#include <cstdlib>
#include <string_view>
#include <vector>

namespace fastpixcon {
namespace {

constexpr int kDefaultShared = 48 * 1024;  // what a kernel may use without asking

// Never destroyed: it may hold a Python object, which must not outlive the interpreter.
std::optional<Emulator>& emulator() {
  static auto* instance = new std::optional<Emulator>;
  return *instance;
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

// Until a card has run them, nothing takes kernels of sm_90a by itself.
bool wants_sm90() {
  static const bool wanted = [] {
    const char* const value = std::getenv("FASTPIXCON_HOPPER");
    return value != nullptr && std::string_view(value) == "1";
  }();
  return wanted;
}

bool is_sm90(int device) {
  return attribute(cudaDevAttrComputeCapabilityMajor, device) == 9 &&
         attribute(cudaDevAttrComputeCapabilityMinor, device) == 0;
}

}  // namespace

void set_emulator(std::optional<Emulator> instead) { emulator() = std::move(instead); }

DeviceLimits device_limits(const at::Tensor& x) {
  if (!x.is_cuda() && emulator().has_value()) return emulator()->limits;
  const int device = x.get_device();
  return {attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device), attribute(cudaDevAttrMultiProcessorCount, device),
          wants_sm90() && is_sm90(device)};
}

// Host and device name a kernel alike: nvcc is told to leave the host's symbol to other files (setup.py).
const char* kernel_name(const void* kernel) {
  Dl_info info{};
  TORCH_CHECK(dladdr(kernel, &info) != 0 && info.dli_sname != nullptr, "a kernel has no symbol");
  return info.dli_sname;
}

void start(const Launch& launch, const at::Tensor* on) {
  TORCH_CHECK(on != nullptr, "a launch without a tensor has no device");
  if (!on->is_cuda()) {
    TORCH_CHECK(emulator().has_value(), "CUDA kernels: got a tensor on ", on->device(), ", want cuda");
    return emulator()->run(launch);
  }
  if (launch.shared > kDefaultShared)
    C10_CUDA_CHECK(cudaFuncSetAttribute(launch.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, launch.shared));
  std::vector<void*> values;
  for (size_t i = 0; i < launch.count; ++i) values.push_back(launch.arguments[i].value);
  const auto stream = c10::cuda::getCurrentCUDAStream(on->get_device());
  C10_CUDA_CHECK(
      cudaLaunchKernel(launch.kernel, launch.grid, launch.block, values.data(), launch.shared, stream.stream()));
}

}  // namespace fastpixcon
