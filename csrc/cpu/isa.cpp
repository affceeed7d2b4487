#include "cpu/isa.h"

#include <c10/util/Exception.h>

#include <algorithm>
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

const Isa kReal[] = {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx};
const Isa kEmulated[] = {Isa::kAvx512Emulated, Isa::kAvx512Bf16Emulated, Isa::kAmxEmulated};

#if defined(__x86_64__) && defined(__GNUC__)
struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf = 0) {
  Registers r;
  if (!__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d)) return {};
  return r;
}

bool bit(unsigned word, int place) { return (word >> place) & 1; }

std::string vendor() {
  const Registers r = cpuid(0);
  char letters[12];
  std::memcpy(letters, &r.b, 4);
  std::memcpy(letters + 4, &r.d, 4);
  std::memcpy(letters + 8, &r.c, 4);
  return {letters, sizeof letters};
}
#endif

Processor this_processor() {
  Processor p{};
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  p.vendor = vendor();
  p.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  p.avx512 = p.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  p.avx512_bf16 = p.avx512 && bit(cpuid(7, 1).a, 5);
  p.sse4a = bit(cpuid(0x80000001).c, 6);
#if defined(__linux__)
  const unsigned d = cpuid(7).d;
  p.amx = p.avx512_bf16 && bit(d, 22) && bit(d, 24);  // AMX-BF16, AMX-TILE
  // Linux hands out the tile registers on request (ARCH_REQ_XCOMP_PERM, XTILEDATA).
  p.amx_permitted = p.amx && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#endif
#endif
  return p;
}

// Whether `isa` can be executed.
bool has(const Processor& p, Isa isa) {
  switch (isa) {
    case Isa::kBaseline: return true;
    case Isa::kAvx2: return p.avx2;
    case Isa::kAvx512: return p.avx512;
    case Isa::kAvx512Bf16: return p.avx512_bf16;
    case Isa::kAmx: return p.amx && p.amx_permitted;
    default: return p.avx2;
  }
}

std::string names(const std::vector<Isa>& isas) {
  std::string text;
  for (Isa isa : isas) text += (text.empty() ? "" : ", ") + std::string(isa_name(isa));
  return text;
}

std::vector<Isa> all_of(const Processor& p) {
  std::vector<Isa> found;
  for (Isa isa : kReal) {
    if (has(p, isa)) found.push_back(isa);
  }
  return found;
}

// Why products of bfloat16 pairs do not pay here; empty: they do. On Zen they take half the time of float products; on
// Intel, whose bfloat16 is AMX's business, half as much again.
std::string slow_pairs(const Processor& p) {
  if (p.vendor == "AuthenticAMD" || p.vendor == "HygonGenuine") return "";
  if (p.vendor == "GenuineIntel") return "slower on Intel";
  return p.sse4a ? "" : "not known to be faster on '" + p.vendor + "'";
}

}  // namespace

Choice choose_isa(const Processor& p, const std::string& wanted, const std::vector<Isa>& built) {
  const std::vector<Isa> here = all_of(p);
  const std::string list = names(here);
  const std::string denied = p.amx && !p.amx_permitted ? "amx is there, the system does not permit it" : "";
  if (wanted.empty()) {
    const std::string slow = p.avx512_bf16 ? slow_pairs(p) : "";
    Choice choice{here.back(), "of " + list + (denied.empty() ? "" : "; " + denied)};
    if (choice.isa == Isa::kAvx512Bf16 && !slow.empty()) {
      choice.isa = Isa::kAvx512;
      choice.why += "; avx512_bf16 is there, " + slow;
    }
    return choice;
  }
  for (Isa isa : kReal) {
    if (wanted != isa_name(isa)) continue;
    TORCH_CHECK_VALUE(has(p, isa), "FASTPIXCON_CPU_ISA: got ", wanted, ", this processor has ", list,
                      denied.empty() ? "" : "; " + denied);
    return {isa, "of " + list + "; by FASTPIXCON_CPU_ISA"};
  }
  for (Isa isa : kEmulated) {
    if (wanted != isa_name(isa)) continue;
    TORCH_CHECK_VALUE(has(p, isa), "FASTPIXCON_CPU_ISA: ", wanted, " needs a processor with AVX2");
    TORCH_CHECK_VALUE(std::count(built.begin(), built.end(), isa) > 0, "FASTPIXCON_CPU_ISA: got ", wanted,
                      ", which only builds for tests have: FASTPIXCON_BUILD_TESTS=1, as make test sets it");
    return {isa, "of " + list + "; by FASTPIXCON_CPU_ISA"};
  }
  TORCH_CHECK_VALUE(
      false, "FASTPIXCON_CPU_ISA: got ", wanted,
      ", want baseline, avx2, avx512, avx512_bf16, amx, avx512_emulated, avx512_bf16_emulated or amx_emulated");
}

const Choice& isa_choice() {
  static const Choice chosen = [] {
    const char* wanted = std::getenv("FASTPIXCON_CPU_ISA");
    std::vector<Isa> built;
    for (Isa isa : kEmulated) {
      if (emulated_kernels(isa) != nullptr) built.push_back(isa);
    }
    return choose_isa(this_processor(), wanted == nullptr ? "" : wanted, built);
  }();
  return chosen;
}

Isa isa() { return isa_choice().isa; }

Kernels& emulated_kernels(Isa isa) {
  static Kernels kernels[kIsas] = {};
  return kernels[static_cast<int>(isa)];
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
