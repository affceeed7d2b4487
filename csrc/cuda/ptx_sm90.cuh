// Instructions of sm_90a, each in one function: barriers in shared memory, copies in bulk, products of a warpgroup.
#pragma once

#include <cstdint>

#include "cuda/precision.h"

namespace fastpixcon {

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// Barriers that count arrivals and bytes (mbarrier). A phase ends when as many have arrived as `barrier_begin` says and
// all expected bytes are there; `parity` of the phases is 0, 1, 0, .., and the phase before the first has ended.

__device__ inline void barrier_begin(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// Of the thread that began them: copies in bulk know them, too.
__device__ inline void barriers_begun() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ inline void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives, and lets the phase wait for so many bytes.
__device__ inline void barrier_expect(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

__device__ inline void barrier_wait(uint64_t* barrier, int parity) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again; }" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// Bytes from global to shared memory, both multiples of 16, which `barrier` waits for.
__device__ inline void copy_bulk(void* to, const void* from, int bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}

// All threads of a warpgroup wait for each other; `group`: its number.
__device__ inline void group_wait(int group) {
  asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory");  // 0 is __syncthreads
}

// All threads of a warpgroup: gives registers back to the multiprocessor, or takes more.
template <int kRegisters>
__device__ void keep_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Products of a warpgroup go on by themselves (wgmma). Registers that were touched want a fence before they are given
// to one; then they belong to it until the group that it is committed in has been waited for.

__device__ inline void products_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until all groups but the latest `kPending` are done.
template <int kPending>
__device__ void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// What products gave is not read before this, which the compiler doesn't know of a wait.
template <int kCount>
__device__ void products_given(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// Where a matrix lies in panels of 128 bytes a row, swizzled as piece_at has it, from a multiple of 1024 bytes on.
// panel_bytes: from one panel to the next, which matters where columns are summed over (k) alone lie in one.
__device__ inline uint64_t panels_at(const void* p, int panel_bytes) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62, kEightRows = uint64_t{1024 >> 4} << 32;
  return kSwizzle128 | kEightRows | static_cast<uint64_t>(panel_bytes >> 4) << 16 | shared_address(p) >> 4;
}

// What the compiler may take for another one, and does not keep what was made of it.
__device__ inline void made_anew(uint64_t& matrix) { asm volatile("" : "+l"(matrix)); }

// The same so many bytes further.
__device__ inline uint64_t further(uint64_t matrix, int bytes) { return matrix + (bytes >> 4); }

// clang-format off
#define FASTPIXCON_TO_31 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FASTPIXCON_TO_47 FASTPIXCON_TO_31 \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define FASTPIXCON_TO_63 FASTPIXCON_TO_47 \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FASTPIXCON_TO_127 FASTPIXCON_TO_63 \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define FASTPIXCON_8(how, i) \
  how(d[i]), how(d[i + 1]), how(d[i + 2]), how(d[i + 3]), how(d[i + 4]), how(d[i + 5]), how(d[i + 6]), how(d[i + 7])
#define FASTPIXCON_16(how, i) FASTPIXCON_8(how, i), FASTPIXCON_8(how, i + 8)
#define FASTPIXCON_32(how, i) FASTPIXCON_16(how, i), FASTPIXCON_16(how, i + 16)
#define FASTPIXCON_48(how, i) FASTPIXCON_32(how, i), FASTPIXCON_16(how, i + 32)
#define FASTPIXCON_64(how, i) FASTPIXCON_32(how, i), FASTPIXCON_32(how, i + 32)
#define FASTPIXCON_128(how, i) FASTPIXCON_64(how, i), FASTPIXCON_64(how, i + 64)

// Both sides in shared memory, a row's numbers side by side; `how` is "=f" and `added` 0, or "+f" and 1.
#define FASTPIXCON_ROWS(N, type, list, all, how, added, a_, b_) \
  asm volatile("{\n.reg .pred added;\nsetp.ne.b32 added, " added ", 0;\n" \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " {" list "}, " a_ ", " b_ \
               ", added, 1, 1, 0, 0; }" : all(how, 0) : "l"(a), "l"(b))
#define FASTPIXCON_MULTIPLY_ROWS(N, count, list, all, a_, b_) \
  template <Precision kPrecision, bool kAdd> \
  __device__ void multiply_rows(float (&d)[count], uint64_t a, uint64_t b) { \
    if constexpr (kPrecision == Precision::kBFloat16) { \
      if constexpr (kAdd) FASTPIXCON_ROWS(N, "bf16", list, all, "+f", "1", a_, b_); \
      else FASTPIXCON_ROWS(N, "bf16", list, all, "=f", "0", a_, b_); \
    } else { \
      if constexpr (kAdd) FASTPIXCON_ROWS(N, "f16", list, all, "+f", "1", a_, b_); \
      else FASTPIXCON_ROWS(N, "f16", list, all, "=f", "0", a_, b_); \
    } \
  }

// The left side in registers; the numbers of a column of the right one lie in one of its rows.
#define FASTPIXCON_COLUMNS(N, type, list, all, a_, b_) \
  asm volatile("{\n.reg .pred added;\nsetp.ne.b32 added, 1, 0;\n" \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " {" list "}, {" a_ "}, " b_ \
               ", added, 1, 1, 1; }" : all("+f", 0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define FASTPIXCON_MULTIPLY_COLUMNS(N, count, list, all, a_, b_) \
  template <Precision kPrecision> \
  __device__ void multiply_add_columns(float (&d)[count], const uint32_t (&a)[4], uint64_t b) { \
    if constexpr (kPrecision == Precision::kBFloat16) \
      FASTPIXCON_COLUMNS(N, "bf16", list, all, a_, b_); \
    else \
      FASTPIXCON_COLUMNS(N, "f16", list, all, a_, b_); \
  }

// d [64, N] = a b^T, or += if kAdd: a [64, 16], b [N, 16], at panels_at. Of d a thread has of 8 columns each, i, what
// Lane (g, t) of warp w has of multiply_add_bf16 of rows 16 w..: d[4 i..].
FASTPIXCON_MULTIPLY_ROWS(96, 48, FASTPIXCON_TO_47, FASTPIXCON_48, "%48", "%49")
FASTPIXCON_MULTIPLY_ROWS(128, 64, FASTPIXCON_TO_63, FASTPIXCON_64, "%64", "%65")

// d [64, N] += a b: of a [64, 16] a warp has its 16 rows as multiply_add_bf16 takes them, b is [16, N].
FASTPIXCON_MULTIPLY_COLUMNS(64, 32, FASTPIXCON_TO_31, FASTPIXCON_32, "%32, %33, %34, %35", "%36")
FASTPIXCON_MULTIPLY_COLUMNS(128, 64, FASTPIXCON_TO_63, FASTPIXCON_64, "%64, %65, %66, %67", "%68")
FASTPIXCON_MULTIPLY_COLUMNS(256, 128, FASTPIXCON_TO_127, FASTPIXCON_128, "%128, %129, %130, %131", "%132")
// clang-format on

}  // namespace fastpixcon
