#include "cpu/isa.h"

#include <c10/util/Exception.h>

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastpixcon::cpu {
namespace {

#if defined(__x86_64__) && defined(__GNUC__)
bool has_avx512_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && ((a >> 5) & 1);
}
#endif

#if defined(__linux__) && defined(__x86_64__)
bool has_amx_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool bf16 = (d >> 22) & 1, tile = (d >> 24) & 1;
  // Linux hands out the tile registers on request (ARCH_REQ_XCOMP_PERM, XTILEDATA).
  return bf16 && tile && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
}
#endif

Isa best() {
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool avx512_bf16 = avx512 && has_avx512_bf16();
#if defined(__linux__)
  if (avx512_bf16 && has_amx_bf16()) return Isa::kAmx;
#endif
  if (avx512_bf16) return Isa::kAvx512Bf16;
  if (avx512) return Isa::kAvx512;
  if (avx2) return Isa::kAvx2;
#endif
  return Isa::kBaseline;
}

Isa choose() {
  const Isa here = best();
  const char* wanted = std::getenv("FASTPIXCON_CPU_ISA");
  if (wanted == nullptr || *wanted == '\0') return here;
  for (Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx}) {
    if (std::strcmp(wanted, isa_name(isa)) != 0) continue;
    TORCH_CHECK_VALUE(isa <= here, "FASTPIXCON_CPU_ISA: got ", wanted, ", this processor has up to ", isa_name(here));
    return isa;
  }
  for (Isa isa : {Isa::kAvx512Emulated, Isa::kAvx512Bf16Emulated, Isa::kAmxEmulated}) {
    if (std::strcmp(wanted, isa_name(isa)) != 0) continue;
    TORCH_CHECK_VALUE(here >= Isa::kAvx2, "FASTPIXCON_CPU_ISA: ", wanted, " needs a processor with AVX2");
    return isa;
  }
  TORCH_CHECK_VALUE(
      false, "FASTPIXCON_CPU_ISA: got ", wanted,
      ", want baseline, avx2, avx512, avx512_bf16, amx, avx512_emulated, avx512_bf16_emulated or amx_emulated");
}

}  // namespace

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kBaseline: return "baseline";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
    case Isa::kAvx512Bf16: return "avx512_bf16";
    case Isa::kAmx: return "amx";
    case Isa::kAvx512Emulated: return "avx512_emulated";
    case Isa::kAvx512Bf16Emulated: return "avx512_bf16_emulated";
    case Isa::kAmxEmulated: return "amx_emulated";
  }
  return "unknown";
}

}  // namespace fastpixcon::cpu
