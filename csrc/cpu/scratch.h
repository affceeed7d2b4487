// Memory for the time of a call.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastpixcon::cpu {

// The first write to a fresh map costs a page fault per 4 KiB, which takes longer than the zeroing itself; with
// 2 MiB pages it is 512 times fewer. Only advice: nothing changes where the system has no such pages.
inline void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kPage * kPage;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// Floats, not initialised. Of malloc and aligned here: a block as posix_memalign cuts it does not fit again into the
// hole that it has left, so a forward and its backward would need nearly the memory of both.
inline at::Tensor scratch(at::IntArrayRef sizes) {
  constexpr size_t kAlignment = 64;
  const auto options = at::TensorOptions().dtype(at::kFloat);
  const size_t bytes = static_cast<size_t>(c10::multiply_integers(sizes)) * sizeof(float);
  void* const block = std::malloc(bytes + kAlignment);
  if (block == nullptr) return at::empty(sizes, options);  // says what is wrong
  void* const data = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(block) / kAlignment + 1) * kAlignment);
  prefer_huge_pages(data, bytes);
  return at::from_blob(data, sizes, [block](void*) { std::free(block); }, options);
}

}  // namespace fastpixcon::cpu
