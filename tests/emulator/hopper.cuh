// Instructions of sm_90a, by their names.
#pragma once
#include <cuda.h>
#include <stdint.h>

#define ASM(...) asm volatile(__VA_ARGS__)

__device__ inline uint32_t address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// mbarriers

__device__ inline void init(uint64_t* bar, int count) {
  ASM("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address(bar)), "r"(count) : "memory");
}
__device__ inline void show_init() { ASM("fence.mbarrier_init.release.cluster;" :: : "memory"); }
__device__ inline uint64_t arrive(uint64_t* bar) {
  uint64_t state;
  ASM("mbarrier.arrive.shared::cta.b64 %0, [%1];" : "=l"(state) : "r"(address(bar)) : "memory");
  return state;
}
__device__ inline void expect(uint64_t* bar, int bytes) {  // and arrives
  ASM("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(bar)), "r"(bytes) : "memory");
}
__device__ inline void wait(uint64_t* bar, int parity) {
  ASM("{ .reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; @!done bra again; }" ::"r"(
          address(bar)),
      "r"(parity) : "memory");
}

// Copies in bulk

__device__ inline void load(void* to, const void* from, int bytes, uint64_t* bar) {
  ASM("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(address(to)),
      "l"(from), "r"(bytes), "r"(address(bar)) : "memory");
}
__device__ inline void store(void* to, const void* from, int bytes) {
  ASM("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(address(from)),
      "r"(bytes) : "memory");
}
__device__ inline void load_box(void* to, const CUtensorMap* map, int x, int y, uint64_t* bar) {
  ASM("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          address(to)),
      "l"(map), "r"(x), "r"(y), "r"(address(bar)) : "memory");
}
__device__ inline void store_box(const CUtensorMap* map, int x, int y, const void* from) {
  ASM("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(x), "r"(y),
      "r"(address(from)) : "memory");
}
__device__ inline void commit() { ASM("cp.async.bulk.commit_group;" :: : "memory"); }
template <int N>
__device__ inline void wait_read() {
  ASM("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}
__device__ inline void fence_proxy() { ASM("fence.proxy.async.shared::cta;" :: : "memory"); }

// Products: d [64, 8] of bfloat16

__device__ inline void product_fence() { ASM("wgmma.fence.sync.aligned;" :: : "memory"); }
__device__ inline void product_commit() { ASM("wgmma.commit_group.sync.aligned;" :: : "memory"); }
template <int N>
__device__ inline void product_wait() {
  ASM("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
__device__ inline void product(float (&d)[4], uint64_t a, uint64_t b, int added) {
  ASM("{ .reg .pred p; setp.ne.b32 p, %6, 0;"
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, p, 1, 1, 0, 0; }" : "+f"(d[0]),
      "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(b), "r"(added) : "memory");
}
__device__ inline void product_of_registers(float (&d)[4], uint32_t (&a)[4], uint64_t b) {
  ASM("{ .reg .pred p; setp.ne.b32 p, 1, 0;"
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, {%4, %5, %6, %7}, %8, p, 1, 1, 0; }" : "+"
                                                                                                                    "f"(d[0]),
      "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b) : "memory");
}
// Of rows of 16 columns: 32 bytes each, swizzled.
__device__ inline uint64_t matrix(const void* p) {
  return (uint64_t)(address(p) >> 4) | (uint64_t)1 << 16 | (uint64_t)(256 >> 4) << 32 | (uint64_t)3 << 62;
}

// Clusters

__device__ inline uint32_t rank() {
  uint32_t r;
  ASM("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
__device__ inline uint32_t remote(const void* p, uint32_t rank) {
  uint32_t found;
  ASM("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(found) : "r"(address(p)), "r"(rank));
  return found;
}
__device__ inline void cluster_arrive() { ASM("barrier.cluster.arrive.release.aligned;" :: : "memory"); }
__device__ inline void cluster_wait() { ASM("barrier.cluster.wait.acquire.aligned;" :: : "memory"); }
__device__ inline void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}
__device__ inline void arrive_at(uint32_t bar) {
  ASM("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(bar) : "memory");
}
__device__ inline uint32_t load_at(uint32_t p) {
  uint32_t x;
  ASM("ld.shared::cluster.u32 %0, [%1];" : "=r"(x) : "r"(p) : "memory");
  return x;
}
__device__ inline void store_at(uint32_t p, uint32_t x) {
  ASM("st.shared::cluster.u32 [%0], %1;" ::"r"(p), "r"(x) : "memory");
}
