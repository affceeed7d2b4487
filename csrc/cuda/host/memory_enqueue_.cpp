// memory_enqueue_ on CUDA tensors, in one launch.
#include "cuda/memory_enqueue_.h"

#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "common/checks.h"
#include "cuda/host/launch.h"
#include "cuda/host/tensors.h"

namespace fastpixcon {
namespace {

void memory_enqueue_(const at::Tensor& bank, const at::Tensor& bank_labels, const at::Tensor& written,
                     int64_t pixel_size, const at::Tensor& pixels, const at::Tensor& pixel_labels,
                     const at::Tensor& regions, const at::Tensor& region_labels) {
  check_memory_enqueue(bank, bank_labels, written, pixel_size, pixels, pixel_labels, regions, region_labels);
  const c10::DeviceGuard guard(bank.device());
  const int64_t K = bank.size(0), S = bank.size(1), D = bank.size(2);
  const auto rows = [](const char* name, const at::Tensor& x, const at::Tensor& labels) {
    return std::tuple(x.contiguous(), labels.contiguous(), x.size(0), static_cast<int>(dtype_of(name, x)));
  };
  launch(enqueue_kernel(dtype_of("bank", bank)), dim3(K, 2), dim3(kEnqueueThreads), 0,
         std::tuple(bank, bank_labels, written, S, D, pixel_size, bank.stride(0), bank.stride(1), bank.stride(2),
                    bank_labels.stride(0), bank_labels.stride(1), written.stride(0), written.stride(1)),
         rows("pixels", pixels, pixel_labels), rows("regions", regions, region_labels));
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CUDA, m) { m.impl("memory_enqueue_", &memory_enqueue_); }

}  // namespace fastpixcon
