// Faults of products, registers and clusters.
#include "hopper_faults.cuh"

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
