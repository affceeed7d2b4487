// assert() with a message, which NDEBUG leaves alive: ends the kernel with cudaErrorAssert, and the host reads nothing.
#pragma once

extern "C" __host__ __device__ void __assert_fail(
    const char* assertion, const char* file, unsigned int line,
    const char* function) noexcept;  // assert.h has it without NDEBUG only

#define FASTPIXCON_DEVICE_CHECK(condition, message)         \
  do {                                                      \
    if (!(condition)) {                                     \
      __assert_fail(message, __FILE__, __LINE__, __func__); \
      __trap();                                             \
    }                                                       \
  } while (false)
