// The instruction set that the CPU kernels use, chosen at run time.
#pragma once

namespace fastpixcon::cpu {

// The emulated ones run the code of their original in AVX2 and software, for tests; never chosen by themselves.
enum class Isa { kBaseline, kAvx2, kAvx512, kAvx512Bf16, kAmx, kAvx512Emulated, kAvx512Bf16Emulated, kAmxEmulated };

// The best this processor has, or what FASTPIXCON_CPU_ISA asks for. Throws on an unknown or missing one.
Isa isa();

const char* isa_name(Isa isa);

}  // namespace fastpixcon::cpu
