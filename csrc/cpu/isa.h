// The instruction set that the CPU kernels use, chosen at run time.
#pragma once

namespace fastpixcon {

enum class Isa { kBaseline, kAvx2, kAvx512, kAmx };

// The best this processor has, or what FASTPIXCON_CPU_ISA asks for. Throws on an unknown or missing one.
Isa isa();

const char* isa_name(Isa isa);

}  // namespace fastpixcon
