// Kernels of sm_90a twice: as they should be (name_sound) and with a fault (name_faulty).
#include "hopper.cuh"

#define TWICE(name)                                                                                              \
  extern "C" __global__ void __launch_bounds__(256) name##_sound(const float* x, float* y) { name<true>(x, y); } \
  extern "C" __global__ void __launch_bounds__(256) name##_faulty(const float* x, float* y) { name<false>(x, y); }
#define FAULT(name)     \
  template <bool SOUND> \
  __device__ void name(const float* x, float* y)
#define CLUSTER_OF_TWO(name)                                                                                        \
  extern "C" __global__ void __cluster_dims__(2, 1, 1) name##_sound(const float* x, float* y) { name<true>(x, y); } \
  extern "C" __global__ void __cluster_dims__(2, 1, 1) name##_faulty(const float* x, float* y) { name<false>(x, y); }

__device__ inline bool first() { return threadIdx.x == 0; }

// Stages

FAULT(no_wait_for_a_stage) {
  __shared__ __align__(128) float s[256];
  __shared__ uint64_t bar;
  if (first()) {
    init(&bar, 1);
    expect(&bar, 1024);
    load(s, x, 1024, &bar);
  }
  __syncthreads();
  if (SOUND) wait(&bar, 0);
  y[threadIdx.x] = s[threadIdx.x];
  __syncthreads();
  wait(&bar, 0);
}
TWICE(no_wait_for_a_stage)

FAULT(stage_written_too_early) {
  __shared__ __align__(128) float s[256];
  __shared__ uint64_t bar;
  if (first()) {
    init(&bar, 1);
    expect(&bar, 1024);
    load(s, x, 1024, &bar);
    if (SOUND) wait(&bar, 0);
    s[7] = 1;
    wait(&bar, 0);
  }
}
TWICE(stage_written_too_early)

FAULT(source_not_aligned) {
  __shared__ __align__(128) float s[256];
  __shared__ uint64_t bar;
  if (first()) {
    init(&bar, 1);
    expect(&bar, 512);
    load(s, x + (SOUND ? 4 : 2), 512, &bar);
  }
  __syncthreads();
  wait(&bar, 0);
}
TWICE(source_not_aligned)

FAULT(waits_for_too_few_groups) {
  __shared__ __align__(128) float s[256];
  s[threadIdx.x] = x[threadIdx.x];
  fence_proxy();
  __syncthreads();
  if (first()) {
    for (int i = 0; i < 3; ++i) {
      store(y + 64 * i, s, 256);
      commit();
    }
    wait_read<SOUND ? 0 : 5>();
  }
  __syncthreads();
  s[threadIdx.x] = 0;
  if (first()) wait_read<0>();
}
TWICE(waits_for_too_few_groups)

FAULT(another_warp_waited) {
  __shared__ __align__(128) float s[256];
  __shared__ uint64_t bar;
  if (first()) {
    init(&bar, 1);
    expect(&bar, 1024);
    load(s, x, 1024, &bar);
  }
  __syncthreads();
  if (SOUND || threadIdx.x < 128) wait(&bar, 0);
  y[threadIdx.x] = s[threadIdx.x];
}
TWICE(another_warp_waited)

FAULT(stage_taken_too_early) {
  __shared__ __align__(128) float s[256];
  __shared__ uint64_t full, empty;
  if (first()) {
    init(&full, 1);
    init(&empty, 7);
  }
  __syncthreads();
  for (int i = 0; i < 2; ++i) {
    if (threadIdx.x < 32) {
      if (SOUND) wait(&empty, (i & 1) ^ 1);
      if (first()) {
        expect(&full, 1024);
        load(s, x, 1024, &full);
      }
      __syncwarp();
      if (!SOUND) wait(&full, i & 1);
    } else {
      wait(&full, i & 1);
      y[threadIdx.x] = s[threadIdx.x];
      __syncwarp();
      if (threadIdx.x % 32 == 0) arrive(&empty);
    }
  }
}
TWICE(stage_taken_too_early)

FAULT(overwritten_while_stored) {
  __shared__ __align__(128) float s[256];
  s[threadIdx.x] = x[threadIdx.x];
  fence_proxy();
  __syncthreads();
  if (first()) {
    store(y, s, 1024);
    commit();
    if (SOUND) wait_read<0>();
  }
  __syncthreads();
  s[threadIdx.x] = 0;
  if (!SOUND && first()) wait_read<0>();
}
TWICE(overwritten_while_stored)

FAULT(exits_while_stored) {
  __shared__ __align__(128) float s[256];
  s[threadIdx.x] = x[threadIdx.x];
  fence_proxy();
  __syncthreads();
  if (first()) {
    store(y, s, 1024);
    commit();
    if (SOUND) wait_read<0>();
  }
}
TWICE(exits_while_stored)

FAULT(no_fence_before_a_store) {
  __shared__ __align__(128) float s[256];
  s[threadIdx.x] = x[threadIdx.x];
  if (SOUND) fence_proxy();
  __syncthreads();
  if (first()) {
    store(y, s, 1024);
    commit();
    wait_read<0>();
  }
}
TWICE(no_fence_before_a_store)

FAULT(fence_behind_the_barrier) {  // which is sound, if it is of the thread that stores
  __shared__ __align__(128) float s[256];
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  if (threadIdx.x == (SOUND ? 0 : 32)) fence_proxy();
  if (first()) {
    store(y, s, 1024);
    commit();
    wait_read<0>();
  }
}
TWICE(fence_behind_the_barrier)

FAULT(no_fence_in_global_memory) {
  __shared__ __align__(128) float s[256];
  __shared__ uint64_t bar;
  y[threadIdx.x] = x[threadIdx.x];
  if (first()) init(&bar, 1);
  __syncthreads();
  if (first()) {
    if (SOUND)
      ASM("fence.proxy.async.global;" :: : "memory");
    else
      fence_proxy();
    expect(&bar, 1024);
    load(s, y, 1024, &bar);
  }
  wait(&bar, 0);
}
TWICE(no_fence_in_global_memory)

// mbarriers

FAULT(too_few_arrivals) {
  __shared__ uint64_t bar;
  if (first()) init(&bar, SOUND ? 256 : 257);
  __syncthreads();
  arrive(&bar);
  wait(&bar, 0);
}
TWICE(too_few_arrivals)

FAULT(too_many_arrivals) {
  __shared__ uint64_t bar;
  if (first()) init(&bar, SOUND ? 256 : 250);
  __syncthreads();
  arrive(&bar);
}
TWICE(too_many_arrivals)

FAULT(too_many_bytes_expected) {
  __shared__ __align__(128) float s[256];
  __shared__ uint64_t bar;
  if (first()) {
    init(&bar, 1);
    expect(&bar, SOUND ? 1024 : 1040);
    load(s, x, 1024, &bar);
  }
  __syncthreads();
  wait(&bar, 0);
}
TWICE(too_many_bytes_expected)

FAULT(too_few_bytes_expected) {
  __shared__ __align__(128) float s[256];
  __shared__ uint64_t bar;
  if (first()) {
    init(&bar, 1);
    expect(&bar, SOUND ? 1024 : 1008);
    load(s, x, 1024, &bar);
  }
  __syncthreads();
  wait(&bar, 0);
}
TWICE(too_few_bytes_expected)

FAULT(bytes_overflow) {
  __shared__ uint64_t bar;
  if (first()) {
    init(&bar, 1);
    ASM("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(address(&bar)),
        "r"(1 << (SOUND ? 19 : 20)) : "memory");
  }
}
TWICE(bytes_overflow)

FAULT(no_mbarrier) {
  __shared__ uint64_t bar;
  if (SOUND && first()) init(&bar, 256);
  __syncthreads();
  arrive(&bar);
}
TWICE(no_mbarrier)

FAULT(mbarrier_before_a_barrier) {
  __shared__ uint64_t bar;
  if (first()) init(&bar, 256);
  if (SOUND) __syncthreads();
  arrive(&bar);
}
TWICE(mbarrier_before_a_barrier)

FAULT(initialised_twice) {
  __shared__ uint64_t bar;
  if (first()) {
    init(&bar, 1);
    if (SOUND) ASM("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(address(&bar)) : "memory");
    init(&bar, 1);
  }
}
TWICE(initialised_twice)

FAULT(completes_without_completion) {
  __shared__ uint64_t bar;
  if (first()) {
    init(&bar, 4);
    ASM("{ .reg .b64 t; mbarrier.arrive.noComplete.shared::cta.b64 t, [%0], %1; }" ::"r"(address(&bar)),
        "r"(SOUND ? 3 : 4) : "memory");
  }
}
TWICE(completes_without_completion)

FAULT(mbarrier_of_too_many) {
  __shared__ uint64_t bar;
  if (first()) init(&bar, (1 << 20) - (SOUND ? 1 : 0));
}
TWICE(mbarrier_of_too_many)

FAULT(mbarrier_as_data) {
  __shared__ uint64_t bar;
  if (first()) init(&bar, 1);
  __syncthreads();
  if (!SOUND) y[threadIdx.x] = *(volatile uint32_t*)&bar;
}
TWICE(mbarrier_as_data)

FAULT(wrong_parity) {
  __shared__ uint64_t bar;
  if (first()) init(&bar, 256);
  __syncthreads();
  for (int i = 0; i < 3; ++i) {
    arrive(&bar);
    wait(&bar, SOUND ? i & 1 : 0);
  }
}
TWICE(wrong_parity)

// Products

struct Tiles {
  uint32_t a[64 * 8], b[8 * 8];
};

#define TILES(fence)                                                              \
  __shared__ __align__(1024) Tiles tiles;                                         \
  for (int i = threadIdx.x; i < 64 * 8; i += blockDim.x) tiles.a[i] = 0x3f803f80; \
  for (int i = threadIdx.x; i < 8 * 8; i += blockDim.x) tiles.b[i] = 0x40004000;  \
  if (fence) fence_proxy();                                                       \
  __syncthreads();                                                                \
  uint64_t a = matrix(tiles.a), b = matrix(tiles.b);                              \
  float d[4] = {};

__device__ inline void give(float* y, const float (&d)[4]) { y[threadIdx.x] = d[0] + d[1] + d[2] + d[3]; }

FAULT(no_fence_before_a_product) {
  TILES(SOUND)
  product_fence();
  product(d, a, b, 0);
  product_commit();
  product_wait<0>();
  give(y, d);
}
TWICE(no_fence_before_a_product)

FAULT(sums_taken_in_flight) {
  TILES(true)
  product_fence();
  product(d, a, b, 0);
  product_commit();
  if (SOUND) product_wait<0>();
  give(y, d);
  product_wait<0>();
}
TWICE(sums_taken_in_flight)

FAULT(one_group_too_many_in_flight) {
  TILES(true)
  float e[4] = {};
  product_fence();
  product(d, a, b, 0);
  product_commit();
  product(e, a, b, 0);
  product_commit();
  product_wait<1>();
  give(y, SOUND ? d : e);
  product_wait<0>();
  give(y, e);
}
TWICE(one_group_too_many_in_flight)

FAULT(sums_set_without_a_fence) {
  TILES(true)
  product_fence();
  product(d, a, b, 0);
  product_commit();
  product_wait<0>();
  for (int i = 0; i < 4; ++i) d[i] *= 2;
  if (SOUND) product_fence();
  product(d, a, b, 1);
  product_commit();
  product_wait<0>();
  give(y, d);
}
TWICE(sums_set_without_a_fence)

FAULT(left_side_changed_in_flight) {
  TILES(true)
  uint32_t left[4];
  for (int i = 0; i < 4; ++i) left[i] = tiles.a[8 * threadIdx.x % 512 + i];
  product_fence();
  product_of_registers(d, left, b);
  product_commit();
  if (SOUND) product_wait<0>();
  for (int i = 0; i < 4; ++i) ASM("xor.b32 %0, %0, 7;" : "+r"(left[i])::"memory");
  product_wait<0>();
  give(y, d);
  y[threadIdx.x] += left[0] + left[1] + left[2] + left[3];
}
TWICE(left_side_changed_in_flight)

FAULT(no_product_fence) {
  TILES(true)
  if (SOUND) product_fence();
  product(d, a, b, 0);
  product_commit();
  product_wait<0>();
  give(y, d);
}
TWICE(no_product_fence)

FAULT(operand_overwritten_in_flight) {
  TILES(true)
  product_fence();
  product(d, a, b, 0);
  product_commit();
  if (SOUND) product_wait<0>();
  __syncthreads();
  if (threadIdx.x < 64) tiles.b[threadIdx.x] = 0;
  product_wait<0>();
  give(y, d);
}
TWICE(operand_overwritten_in_flight)

FAULT(own_operand_overwritten_in_flight) {
  TILES(true)
  product_fence();
  product(d, a, b, 0);
  product_commit();
  if (SOUND) product_wait<0>();
  if (SOUND) __syncthreads();
  if (threadIdx.x == 0) tiles.a[0] = 0;
  product_wait<0>();
  give(y, d);
}
TWICE(own_operand_overwritten_in_flight)

FAULT(product_never_waited_for) {
  TILES(true)
  product_fence();
  product(d, a, b, 0);
  product_commit();
  if (SOUND) product_wait<0>();
}
TWICE(product_never_waited_for)

FAULT(one_warp_waited_for_an_operand) {
  TILES(true)
  __shared__ __align__(1024) uint32_t stage[8 * 8];
  __shared__ uint64_t bar;
  if (first()) {
    init(&bar, 1);
    expect(&bar, 256);
    load(stage, x, 256, &bar);
  }
  __syncthreads();
  if (SOUND || threadIdx.x % 128 < 32) wait(&bar, 0);
  product_fence();
  product(d, a, matrix(stage), 0);
  product_commit();
  product_wait<0>();
  give(y, d);
}
TWICE(one_warp_waited_for_an_operand)

FAULT(fence_of_one_warp) {  // which is sound before a barrier
  TILES(false)
  if (SOUND || threadIdx.x < 32) fence_proxy();
  product_fence();
  product(d, a, b, 0);
  product_commit();
  product_wait<0>();
  give(y, d);
}
TWICE(fence_of_one_warp)

FAULT(product_of_three_warps) {
  TILES(true)
  if (SOUND || threadIdx.x % 128 < 96) {
    product_fence();
    product(d, a, b, 0);
    product_commit();
    product_wait<0>();
    give(y, d);
  }
}
TWICE(product_of_three_warps)

FAULT(operand_out_of_bounds) {
  TILES(true)
  product_fence();
  product(d, a, SOUND ? b : b + 16, 0);
  product_commit();
  product_wait<0>();
  give(y, d);
}
TWICE(operand_out_of_bounds)

// Registers

FAULT(registers_beyond_the_budget) {  // 256 threads: 256 - 1 registers each, so that nothing is left
  if (threadIdx.x < 128) {
    if (SOUND) ASM("setmaxnreg.dec.sync.aligned.u32 40;");
  } else {
    ASM("setmaxnreg.inc.sync.aligned.u32 256;");
  }
}
TWICE(registers_beyond_the_budget)

FAULT(registers_more_by_dec) { ASM("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(SOUND ? 40 : 256)); }
TWICE(registers_more_by_dec)

FAULT(registers_fewer_by_inc) {
  if (threadIdx.x < 128)
    ASM("setmaxnreg.dec.sync.aligned.u32 40;");
  else if (SOUND)
    ASM("setmaxnreg.inc.sync.aligned.u32 256;");
  else
    ASM("setmaxnreg.inc.sync.aligned.u32 40;");
}
TWICE(registers_fewer_by_inc)

// Clusters

FAULT(exits_before_its_neighbour) {
  __shared__ uint32_t s[32];
  if (threadIdx.x < 32) s[threadIdx.x] = threadIdx.x;
  cluster_sync();
  if (!SOUND && rank() == 0) return;
  if (!SOUND) cluster_sync();  // which it leaves when the other has exited
  if (threadIdx.x < 32) y[32 * rank() + threadIdx.x] = load_at(remote(&s[threadIdx.x], rank() ^ 1));
  cluster_sync();
}
CLUSTER_OF_TWO(exits_before_its_neighbour)

FAULT(no_barrier_of_the_cluster) {
  __shared__ uint32_t s[32];
  if (threadIdx.x < 32) s[threadIdx.x] = threadIdx.x;
  if (SOUND)
    cluster_sync();
  else
    __syncthreads();
  if (threadIdx.x < 32) y[32 * rank() + threadIdx.x] = load_at(remote(&s[threadIdx.x], rank() ^ 1));
  cluster_sync();
}
CLUSTER_OF_TWO(no_barrier_of_the_cluster)

FAULT(relaxed_arrival_at_the_cluster) {
  __shared__ uint32_t s[32];
  if (threadIdx.x < 32) s[threadIdx.x] = threadIdx.x;
  if (SOUND)
    cluster_arrive();
  else
    ASM("barrier.cluster.arrive.relaxed.aligned;" :: : "memory");
  cluster_wait();
  if (threadIdx.x < 32) y[32 * rank() + threadIdx.x] = load_at(remote(&s[threadIdx.x], rank() ^ 1));
  cluster_sync();
}
CLUSTER_OF_TWO(relaxed_arrival_at_the_cluster)

FAULT(arrives_twice_at_the_cluster) {
  cluster_arrive();
  if (!SOUND) cluster_arrive();
  cluster_wait();
}
CLUSTER_OF_TWO(arrives_twice_at_the_cluster)

FAULT(waits_for_the_cluster_at_once) {
  if (SOUND) cluster_arrive();
  cluster_wait();
}
CLUSTER_OF_TWO(waits_for_the_cluster_at_once)

FAULT(one_block_waits_for_the_cluster) {
  cluster_arrive();
  cluster_wait();
  if (SOUND || rank() == 0) cluster_arrive();
  if (SOUND || rank() == 0) cluster_wait();
  __shared__ uint64_t bar;
  if (!SOUND && rank() == 1) {
    if (first()) init(&bar, 1);
    __syncthreads();
    wait(&bar, 0);
  }
}
CLUSTER_OF_TWO(one_block_waits_for_the_cluster)

FAULT(rank_outside_the_cluster) {
  __shared__ uint32_t s[32];
  if (threadIdx.x < 32) s[threadIdx.x] = threadIdx.x;
  cluster_sync();
  if (threadIdx.x < 32) y[32 * rank() + threadIdx.x] = load_at(remote(&s[threadIdx.x], SOUND ? 1 : 2));
  cluster_sync();
}
CLUSTER_OF_TWO(rank_outside_the_cluster)
