// Sound kernels of sm_90a, an instruction or two each.
#include "hopper.cuh"

#define KERNEL extern "C" __global__ void
#define MAP const __grid_constant__ CUtensorMap

// mbarriers

// Rounds of producer and consumers, told by parity.
KERNEL ping_pong(const float* x, float* y, int rounds) {
  __shared__ float s[32];
  __shared__ uint64_t full, empty;
  if (threadIdx.x == 0) {
    init(&full, 32);
    init(&empty, 32);
    show_init();
  }
  __syncthreads();
  int lane = threadIdx.x % 32;
  for (int i = 0; i < rounds; ++i) {
    if (threadIdx.x < 32) {
      wait(&empty, (i & 1) ^ 1);
      s[lane] = x[32 * i + lane];
      arrive(&full);
    } else {
      wait(&full, i & 1);
      y[32 * i + lane] = 2 * s[31 - lane];
      arrive(&empty);
    }
  }
}

// By the state that an arrival gives, which also counts those that are missing.
KERNEL by_state(uint32_t* pending, float* y) {
  __shared__ float s[64];
  __shared__ uint64_t bar;
  if (threadIdx.x == 0) init(&bar, 64);
  __syncthreads();
  s[threadIdx.x] = threadIdx.x;
  uint64_t state = arrive(&bar);
  uint32_t count, done = 0;
  ASM("mbarrier.pending_count.b64 %0, %1;" : "=r"(count) : "l"(state));
  while (!done)
    ASM("{ .reg .pred p; mbarrier.test_wait.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }" : "=r"(done) : "r"(
            address(&bar)),
        "l"(state) : "memory");
  pending[threadIdx.x] = count;
  y[threadIdx.x] = s[63 - threadIdx.x];
}

// Half of the threads leave it for good.
KERNEL dropping(float* y) {
  __shared__ float s[32];
  __shared__ uint64_t bar;
  if (threadIdx.x == 0) init(&bar, 64);
  __syncthreads();
  if (threadIdx.x >= 32) {
    s[threadIdx.x - 32] = threadIdx.x;
    ASM("mbarrier.arrive_drop.shared::cta.b64 _, [%0];" ::"r"(address(&bar)) : "memory");
    return;
  }
  for (int i = 0; i < 3; ++i) {
    arrive(&bar);
    wait(&bar, i & 1);
  }
  y[threadIdx.x] = s[threadIdx.x];
  __syncwarp();
  if (threadIdx.x == 0) ASM("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(address(&bar)) : "memory");
}

// A count for several threads, without completion, and bytes by hand.
KERNEL counts(float* y) {
  __shared__ float s[32];
  __shared__ uint64_t bar;
  if (threadIdx.x == 0) {
    init(&bar, 5);
    ASM("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], 48;" ::"r"(address(&bar)) : "memory");
  }
  __syncthreads();
  if (threadIdx.x < 32) s[threadIdx.x] = 3 * threadIdx.x;
  __syncwarp();
  if (threadIdx.x == 0) {
    ASM("{ .reg .b64 t; mbarrier.arrive.noComplete.shared::cta.b64 t, [%0], 2; }" ::"r"(address(&bar)) : "memory");
    ASM("mbarrier.arrive.shared::cta.b64 _, [%0], 3;" ::"r"(address(&bar)) : "memory");
    ASM("mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%0], 48;" ::"r"(address(&bar)) : "memory");
  }
  wait(&bar, 0);
  y[threadIdx.x] = s[threadIdx.x % 32];
}

// Arrivals when copies of a thread are there.
KERNEL copies_arrive(const float* x, float* y) {
  __shared__ float s[64];
  __shared__ uint64_t bar;
  if (threadIdx.x == 0) init(&bar, 64);
  __syncthreads();
  ASM("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(address(&s[threadIdx.x])), "l"(x + threadIdx.x) : "memory");
  ASM("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(address(&bar)) : "memory");
  wait(&bar, 0);
  y[threadIdx.x] = s[63 - threadIdx.x];
}

// Copies in bulk

KERNEL there_and_back(const float* x, float* y, int n) {
  extern __shared__ __align__(128) float tile[];
  __shared__ uint64_t bar;
  if (threadIdx.x == 0) {
    init(&bar, 1);
    show_init();
    expect(&bar, 4 * n);
    load(tile, x, 4 * n, &bar);
  }
  __syncthreads();
  wait(&bar, 0);
  for (int i = threadIdx.x; i < n; i += blockDim.x) tile[i] += 1;
  fence_proxy();
  __syncthreads();
  if (threadIdx.x == 0) {
    store(y, tile, 4 * n);
    commit();
    wait_read<0>();
  }
}

KERNEL adds(const float* x, float* y, const uint32_t* u, uint32_t* v) {
  __shared__ __align__(128) float s[64];
  __shared__ __align__(128) uint32_t t[64];
  s[threadIdx.x] = x[threadIdx.x];
  t[threadIdx.x] = u[threadIdx.x];
  fence_proxy();
  __syncthreads();
  if (threadIdx.x == 0) {
    ASM("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], 256;" ::"l"(y),
        "r"(address(s)) : "memory");
    commit();
    ASM("cp.reduce.async.bulk.global.shared::cta.bulk_group.max.u32 [%0], [%1], 256;" ::"l"(v),
        "r"(address(t)) : "memory");
    commit();
    wait_read<0>();
  }
}

// Boxes of a tensor: what lies in shared memory, as it lies there.
KERNEL box(MAP map, uint4* out, int x, int y, int bytes) {
  extern __shared__ __align__(1024) uint4 tile16[];
  __shared__ uint64_t bar;
  if (threadIdx.x == 0) {
    ASM("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
    init(&bar, 1);
    show_init();
    expect(&bar, bytes);
    load_box(tile16, &map, x, y, &bar);
  }
  __syncthreads();
  wait(&bar, 0);
  for (int i = threadIdx.x; i < bytes / 16; i += blockDim.x) out[i] = tile16[i];
}

KERNEL box_in_memory(const CUtensorMap* map, uint4* out, int x, int y, int bytes) {
  extern __shared__ __align__(1024) uint4 tile16[];
  __shared__ uint64_t bar;
  if (threadIdx.x == 0) {
    init(&bar, 1);
    expect(&bar, bytes);
    load_box(tile16, map, x, y, &bar);
  }
  __syncthreads();
  wait(&bar, 0);
  for (int i = threadIdx.x; i < bytes / 16; i += blockDim.x) out[i] = tile16[i];
}

#define BOX(rank, coordinates, ...)                                                            \
  KERNEL box##rank(MAP map, uint4* out, int a, int b, int c, int d, int e, int bytes) {        \
    extern __shared__ __align__(1024) uint4 tile16[];                                          \
    __shared__ uint64_t bar;                                                                   \
    if (threadIdx.x == 0) {                                                                    \
      init(&bar, 1);                                                                           \
      expect(&bar, bytes);                                                                     \
      ASM("cp.async.bulk.tensor." #rank                                                        \
          "d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, " coordinates \
          "], [%2];" ::"r"(address(tile16)),                                                   \
          "l"(&map), "r"(address(&bar)), __VA_ARGS__ : "memory");                              \
    }                                                                                          \
    __syncthreads();                                                                           \
    wait(&bar, 0);                                                                             \
    for (int i = threadIdx.x; i < bytes / 16; i += blockDim.x) out[i] = tile16[i];             \
  }
BOX(1, "{%3}", "r"(a))
BOX(3, "{%3, %4, %5}", "r"(a), "r"(b), "r"(c))
BOX(4, "{%3, %4, %5, %6}", "r"(a), "r"(b), "r"(c), "r"(d))
BOX(5, "{%3, %4, %5, %6, %7}", "r"(a), "r"(b), "r"(c), "r"(d), "r"(e))

KERNEL box_out(MAP map, const uint4* in, int x, int y, int bytes) {
  extern __shared__ __align__(1024) uint4 tile16[];
  for (int i = threadIdx.x; i < bytes / 16; i += blockDim.x) tile16[i] = in[i];
  fence_proxy();
  __syncthreads();
  if (threadIdx.x == 0) {
    store_box(&map, x, y, tile16);
    commit();
    wait_read<0>();
  }
}

KERNEL box_added(MAP map, const uint4* in, int x, int y, int bytes) {
  extern __shared__ __align__(1024) uint4 tile16[];
  for (int i = threadIdx.x; i < bytes / 16; i += blockDim.x) tile16[i] = in[i];
  fence_proxy();
  __syncthreads();
  if (threadIdx.x == 0) {
    ASM("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map),
        "r"(x), "r"(y), "r"(address(tile16)) : "memory");
    commit();
    wait_read<0>();
  }
}

// Clusters

KERNEL __cluster_dims__(4, 1, 1) ranks(uint32_t* out) {
  uint32_t x[6];
  ASM("mov.u32 %0, %%cluster_ctarank;" : "=r"(x[0]));
  ASM("mov.u32 %0, %%cluster_nctarank;" : "=r"(x[1]));
  ASM("mov.u32 %0, %%clusterid.x;" : "=r"(x[2]));
  ASM("mov.u32 %0, %%nclusterid.x;" : "=r"(x[3]));
  ASM("mov.u32 %0, %%cluster_ctaid.x;" : "=r"(x[4]));
  ASM("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(x[5]));
  for (int i = 0; i < 6; ++i)
    if (threadIdx.x == 0) out[6 * blockIdx.x + i] = x[i];
}

KERNEL two_dimensions(uint32_t* out) {
  if (threadIdx.x == 0) out[blockIdx.y * gridDim.x + blockIdx.x] = rank();
}

// Each program reads what its neighbour holds, and adds to it.
KERNEL __cluster_dims__(4, 1, 1) neighbours(uint32_t* out, uint32_t* sums) {
  __shared__ uint32_t s[32], sum;
  uint32_t next = (rank() + 1) % 4;
  s[threadIdx.x] = 100 * rank() + threadIdx.x;
  if (threadIdx.x == 0) sum = 0;
  cluster_sync();
  out[32 * blockIdx.x + threadIdx.x] = load_at(remote(&s[threadIdx.x], next));
  ASM("red.relaxed.cluster.shared::cluster.add.u32 [%0], %1;" ::"r"(remote(&sum, next)), "r"(threadIdx.x) : "memory");
  cluster_sync();
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
  uint32_t generic = 7;
  uint64_t there;
  ASM("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(&s[0]), "r"(next));
  ASM("getctarank.u64 %0, %1;" : "=r"(generic) : "l"(there));
  if (threadIdx.x == 0) out[32 * blockIdx.x] += 1000 * generic + *(uint32_t*)there;
  cluster_sync();
}

// Arrivals at the mbarrier of another program, after a store there.
KERNEL __cluster_dims__(2, 1, 1) told(uint32_t* out) {
  __shared__ uint32_t s[32];
  __shared__ uint64_t bar;
  if (threadIdx.x == 0) {
    init(&bar, 32);
    show_init();
  }
  cluster_sync();
  uint32_t other = rank() ^ 1;
  store_at(remote(&s[threadIdx.x], other), 10 * rank() + threadIdx.x);
  arrive_at(remote(&bar, other));
  wait(&bar, 0);
  out[32 * blockIdx.x + threadIdx.x] = s[threadIdx.x];
  cluster_sync();
}

// st.async and a copy to another program, counted in bytes.
KERNEL __cluster_dims__(2, 1, 1) sent(uint32_t* out) {
  __shared__ __align__(128) uint32_t s[32], t[32], u[32];
  __shared__ uint64_t bar;
  uint32_t other = rank() ^ 1;
  if (threadIdx.x == 0) {
    init(&bar, 1);
    show_init();
    expect(&bar, 256);
  }
  t[threadIdx.x] = 7 * threadIdx.x + rank();
  fence_proxy();
  cluster_sync();
  ASM("st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];" ::"r"(remote(&s[threadIdx.x], other)),
      "r"(threadIdx.x * threadIdx.x), "r"(remote(&bar, other)) : "memory");
  if (threadIdx.x == 0)
    ASM("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], 128, [%2];" ::"r"(
            remote(u, other)),
        "r"(address(t)), "r"(remote(&bar, other)) : "memory");
  wait(&bar, 0);
  out[64 * blockIdx.x + threadIdx.x] = s[threadIdx.x];
  out[64 * blockIdx.x + 32 + threadIdx.x] = u[threadIdx.x];
  cluster_sync();
}

// red.async in the memory of another program.
KERNEL __cluster_dims__(2, 1, 1) reduced(uint32_t* out) {
  __shared__ uint32_t s[2];
  __shared__ uint64_t bar;
  if (threadIdx.x == 0) {
    s[0] = 5;
    s[1] = 0;
    init(&bar, 1);
    show_init();
    expect(&bar, 64 * 4);
  }
  cluster_sync();
  uint32_t to = remote(s, rank() ^ 1), there = remote(&bar, rank() ^ 1);
  ASM("red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%0], %1, [%2];" ::"r"(to),
      "r"(threadIdx.x), "r"(there) : "memory");
  ASM("red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.max.u32 [%0], %1, [%2];" ::"r"(to + 4),
      "r"(threadIdx.x), "r"(there) : "memory");
  wait(&bar, 0);
  if (threadIdx.x < 2) out[2 * blockIdx.x + threadIdx.x] = s[threadIdx.x];
  cluster_sync();
}

// A box for both programs, of which each asks for one half.
KERNEL __cluster_dims__(2, 1, 1) multicast(MAP map, float* out, int rows) {
  extern __shared__ __align__(1024) float halves[];
  __shared__ uint64_t bar;
  if (threadIdx.x == 0) {
    init(&bar, 1);
    show_init();
    expect(&bar, rows * 128);
  }
  cluster_sync();
  if (threadIdx.x == 0)
    ASM("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {0, "
        "%2}], [%3], %4;" ::"r"(address(halves + rank() * rows * 16)),
        "l"(&map), "r"(rank() * rows / 2), "r"(address(&bar)), "h"((short)3) : "memory");
  wait(&bar, 0);
  for (int i = threadIdx.x; i < rows * 32; i += blockDim.x) out[blockIdx.x * rows * 32 + i] = halves[i];
  cluster_sync();
}

// Registers, one lane, dependent launches

KERNEL __launch_bounds__(384, 1) registers(float* y) {
  if (threadIdx.x < 128)
    ASM("setmaxnreg.dec.sync.aligned.u32 24;");
  else
    ASM("setmaxnreg.inc.sync.aligned.u32 240;");
  ASM("griddepcontrol.wait;");
  uint32_t leads = 0;
  ASM("{ .reg .pred p; elect.sync _|p, -1; selp.u32 %0, 1, 0, p; }" : "=r"(leads));
  ASM("griddepcontrol.launch_dependents;");
  y[threadIdx.x] = leads;
}

KERNEL matrices_stored(const uint4* in, uint32_t* out) {
  __shared__ __align__(16) uint32_t s[128];
  uint4 x = in[threadIdx.x];
  ASM("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address(&s[4 * threadIdx.x])), "r"(x.x),
      "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
  __syncwarp();
  for (int i = 0; i < 4; ++i) out[32 * i + threadIdx.x] = s[32 * i + threadIdx.x];
  __syncwarp();
  ASM("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address(&s[4 * threadIdx.x])), "r"(x.x),
      "r"(x.y) : "memory");
  __syncwarp();
  for (int i = 0; i < 2; ++i) out[128 + 32 * i + threadIdx.x] = s[32 * i + threadIdx.x];
}
