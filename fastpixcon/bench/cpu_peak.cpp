// What one core can do at most: independent multiply-adds on registers, no memory. x86 with AVX-512 or AVX2.
//
//   g++ -O2 bench/cpu_peak.cpp -o /tmp/cpu_peak && /tmp/cpu_peak
#include <algorithm>
#include <chrono>
#include <cstdio>

#define FOUR(i, a, b, c, d)                                                                                        \
  i " %%zmm30, %%zmm31, %%zmm" #a "\n" i " %%zmm30, %%zmm31, %%zmm" #b "\n" i " %%zmm30, %%zmm31, %%zmm" #c "\n" i \
    " %%zmm30, %%zmm31, %%zmm" #d "\n"
#define LOOP(i)                                                                                                     \
  asm volatile("1:\n" FOUR(i, 0, 1, 2, 3) FOUR(i, 4, 5, 6, 7) FOUR(i, 8, 9, 10, 11) FOUR(i, 12, 13, 14, 15)         \
                   FOUR(i, 16, 17, 18, 19) FOUR(i, 20, 21, 22, 23) "dec %0\n jnz 1b\n"                              \
               : "+r"(n)::"cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",     \
                 "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", \
                 "xmm21", "xmm22", "xmm23")

__attribute__((target("avx512f"))) static void floats(long n) { LOOP("vfmadd231ps"); }
__attribute__((target("avx512f"))) static void bfloat16s(long n) { LOOP("vdpbf16ps"); }

#define THREE(a, b, c)                                                                 \
  "vfmadd231ps %%ymm14, %%ymm15, %%ymm" #a "\n vfmadd231ps %%ymm14, %%ymm15, %%ymm" #b \
  "\n vfmadd231ps %%ymm14, %%ymm15, %%ymm" #c "\n"

// As many multiply-adds as in the others: twice twelve registers.
__attribute__((target("avx2,fma"))) static void floats256(long n) {
  asm volatile("1:\n" THREE(0, 1, 2) THREE(3, 4, 5) THREE(6, 7, 8) THREE(9, 10, 11) THREE(0, 1, 2) THREE(3, 4, 5)
                   THREE(6, 7, 8) THREE(9, 10, 11) "dec %0\n jnz 1b\n"
               : "+r"(n)::"cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
                 "xmm11");
}

// The best of many short runs: the others were interrupted.
static double tflops(void (*loop)(long), double flop) {
  double best = 1e9;
  const long n = 20000;
  for (int run = 0; run < 500; ++run) {
    const auto start = std::chrono::steady_clock::now();
    loop(n);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return 24 * n * flop / best / 1e12;
}

int main() {
  const bool wide = __builtin_cpu_supports("avx512f");
  if (wide) std::printf("float32  %.3f TFLOP/s a core\n", tflops(floats, 32));
  if (!wide && __builtin_cpu_supports("fma")) std::printf("float32  %.3f TFLOP/s a core\n", tflops(floats256, 16));
  if (__builtin_cpu_supports("avx512bf16")) std::printf("bfloat16 %.3f TFLOP/s a core\n", tflops(bfloat16s, 64));
}
