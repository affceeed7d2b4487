// C = A B^T of bfloat16 as kernels for sm_90a do it: a producer warp that copies boxes, two warpgroups that multiply, a
// cluster of two that shares B. The tile of a program is 128 rows, 64 a warpgroup, by 64 columns; steps of 64 of K.
#include "hopper.cuh"

constexpr int kStages = 3, kBox = 64 * 64 * 2;  // bytes

__device__ inline uint64_t lines_of_128(const void* p) {
  return (uint64_t)(address(p) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

__device__ inline void multiply(float (&d)[32], uint64_t a, uint64_t b, int added) {
  ASM("{ .reg .pred p; setp.ne.b32 p, %34, 0;"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, p, 1, 1, 0, 0; }" : "+f"(d[0]),
      "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]),
      "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
      "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]),
      "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]) : "l"(a), "l"(b),
      "r"(added) : "memory");
}

__device__ inline void load_half(void* to, const CUtensorMap* map, int x, int y, uint64_t* bar) {  // to both programs
  ASM("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, "
      "%3}], [%4], %5;" ::"r"(address(to)),
      "l"(map), "r"(x), "r"(y), "r"(address(bar)), "h"((short)3) : "memory");
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1)
    gemm(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
         const __grid_constant__ CUtensorMap c, int K) {
  extern __shared__ __align__(1024) char memory[];
  char *a_stages = memory, *b_stages = a_stages + 2 * kStages * kBox, *c_tile = b_stages + kStages * kBox;
  __shared__ uint64_t full[kStages], empty[kStages];
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      init(&full[i], 1);
      init(&empty[i], 4);  // two warpgroups of two programs
    }
    show_init();
  }
  cluster_sync();
  int group = threadIdx.x / 128, steps = (K + 63) / 64, row = blockIdx.x * 128, column = blockIdx.y * 64;
  if (group == 2) {
    ASM("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 256) {
      for (int i = 0; i < steps; ++i) {
        int stage = i % kStages, round = i / kStages & 1;
        wait(&empty[stage], round ^ 1);
        expect(&full[stage], 3 * kBox);
        for (int half = 0; half < 2; ++half)
          load_box(a_stages + (2 * stage + half) * kBox, &a, 64 * i, row + 64 * half, &full[stage]);
        int half = rank() * 32;
        load_half(b_stages + stage * kBox + half * 128, &b, 64 * i, column + half, &full[stage]);
      }
      for (int i = 0; i < kStages; ++i) {  // until nothing comes from the neighbour any more
        int step = steps + i;
        wait(&empty[step % kStages], (step / kStages & 1) ^ 1);
      }
    }
  } else {
    ASM("setmaxnreg.inc.sync.aligned.u32 232;");
    float d[32];
    for (int i = 0; i < 32; ++i) d[i] = 0;
    for (int i = 0; i < steps; ++i) {
      int stage = i % kStages;
      wait(&full[stage], i / kStages & 1);
      uint64_t left = lines_of_128(a_stages + (2 * stage + group) * kBox);
      uint64_t right = lines_of_128(b_stages + stage * kBox);
      product_fence();
      for (int k = 0; k < 4; ++k) multiply(d, left + 2 * k, right + 2 * k, i + k > 0);
      product_commit();
      product_wait<0>();
      if (threadIdx.x % 128 < 2) arrive_at(remote(&empty[stage], threadIdx.x % 128));
    }
    // [64, 64] of bfloat16, in lines of 128 bytes
    int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
    char* tile = c_tile + group * kBox;
    for (int i = 0; i < 32; i += 2) {
      int r = 16 * warp + lane / 4 + 8 * (i / 2 % 2), line = (i / 4 * 8 + lane % 4 * 2) * 2;
      uint32_t pair;
      ASM("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(d[i + 1]), "f"(d[i]));
      *(uint32_t*)(tile + r * 128 + (line ^ (r % 8) << 4)) = pair;
    }
    fence_proxy();
    ASM("bar.sync %0, 128;" ::"r"(1 + group) : "memory");
    if (threadIdx.x % 128 == 0) {
      store_box(&c, column, row + 64 * group, tile);
      commit();
      wait_read<0>();
    }
  }
  cluster_sync();
}
