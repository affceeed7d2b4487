// Neighbouring numbers in one access: one, or as many as 16 bytes hold.
#pragma once

namespace fastpixcon {

template <typename T>
constexpr int kVectorOf = 16 / sizeof(T);  // numbers

// from is global memory that the kernel does not write, aligned to 16 bytes unless kCount is 1.
template <typename T, int kCount>
__device__ void load(const T* from, T (&to)[kCount]) {
  static_assert(kCount == 1 || kCount == kVectorOf<T>, "a number or 16 bytes");
  if constexpr (kCount == 1) {
    to[0] = *from;
  } else {
    const int4 bits = __ldg(reinterpret_cast<const int4*>(from));
    __builtin_memcpy(&to, &bits, sizeof(bits));
  }
}

template <typename T, int kCount>
__device__ void store(T* to, const T (&from)[kCount]) {
  static_assert(kCount == 1 || kCount == kVectorOf<T>, "a number or 16 bytes");
  if constexpr (kCount == 1) {
    *to = from[0];
  } else {
    int4 bits;
    __builtin_memcpy(&bits, &from, sizeof(bits));
    __stwb(reinterpret_cast<int4*>(to), bits);  // an assignment may be taken apart
  }
}

// As many as there are, 16 bytes at a time where they are multiples of that; `to` is then aligned to it.
template <typename T, int kCount>
__device__ void store_all(T* to, const T (&from)[kCount]) {
  constexpr int kStep = kCount % kVectorOf<T> == 0 ? kVectorOf<T> : 1;
#pragma unroll
  for (int i = 0; i < kCount; i += kStep) {
    T part[kStep];
#pragma unroll
    for (int j = 0; j < kStep; ++j) part[j] = from[i + j];
    store(to + i, part);
  }
}

}  // namespace fastpixcon
