// The instruction set that the CPU kernels use, chosen at run time.
#pragma once

#include <string>
#include <vector>

namespace fastpixcon::cpu {

struct TileKernels;

// The emulated ones run the code of their original in AVX2 and software, for tests; never chosen by themselves.
enum class Isa { kBaseline, kAvx2, kAvx512, kAvx512Bf16, kAmx, kAvx512Emulated, kAvx512Bf16Emulated, kAmxEmulated };
constexpr int kIsas = 8;

// What the choice depends on.
struct Processor {
  std::string vendor;  // cpuid's twelve letters; a hypervisor may have put others there
  bool avx2, avx512, avx512_bf16, amx;
  bool sse4a;          // AMD's alone: says whose processor it is where the vendor is hidden
  bool amx_permitted;  // the system hands out the tile registers
};

struct Choice {
  Isa isa;
  std::string why;  // what else is there, and why it was not taken
};

// What suits this processor best, or what was asked for, if not empty; built: those emulated that are in this build.
// Throws on an unknown or missing one.
Choice choose_isa(const Processor& processor, const std::string& wanted, const std::vector<Isa>& built);

// The choice on this processor and with FASTPIXCON_CPU_ISA, made once.
const Choice& isa_choice();
Isa isa();

const char* isa_name(Isa isa);

// Only builds for tests have the emulated ones, whose sources register them here; null: not built.
using Kernels = const TileKernels& (*)();
Kernels& emulated_kernels(Isa isa);
struct EmulatedKernels {
  EmulatedKernels(Isa isa, Kernels kernels) { emulated_kernels(isa) = kernels; }
};

}  // namespace fastpixcon::cpu
