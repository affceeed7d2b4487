// What nvcc makes of common things.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>

#include <cassert>
#include <cstdint>
#include <cstdio>

#define KERNEL extern "C" __global__ void
using namespace nvcuda;

// C [m, n] = A [m, k] B [k, n], a warp for every tile
template <class T, class Acc, int M, int N, int K, class Rows, class S = T>
__device__ void multiply(const S* a, const S* b, Acc* c, int m, int n, int k) {
  int warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32, i = warp / (n / N) * M, j = warp % (n / N) * N;
  if (i >= m) return;
  wmma::fragment<wmma::matrix_a, M, N, K, T, Rows> left;
  wmma::fragment<wmma::matrix_b, M, N, K, T, wmma::row_major> right;
  wmma::fragment<wmma::accumulator, M, N, K, Acc> sum;
  wmma::fill_fragment(sum, (Acc)0);
  bool by_rows = std::is_same<Rows, wmma::row_major>::value;
  for (int p = 0; p < k; p += K) {
    wmma::load_matrix_sync(left, by_rows ? a + i * k + p : a + p * m + i, by_rows ? k : m);
    wmma::load_matrix_sync(right, b + p * n + j, n);
    wmma::mma_sync(sum, left, right, sum);
  }
  wmma::store_matrix_sync(c + i * n + j, sum, n, wmma::mem_row_major);
}
KERNEL wmma_f16(const half* a, const half* b, float* c, int m, int n, int k) {
  multiply<half, float, 16, 16, 16, wmma::row_major>(a, b, c, m, n, k);
}
KERNEL wmma_f16_by_columns(const half* a, const half* b, half* c, int m, int n, int k) {
  multiply<half, half, 32, 8, 16, wmma::col_major>(a, b, c, m, n, k);
}
KERNEL wmma_bf16(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int m, int n, int k) {
  multiply<__nv_bfloat16, float, 8, 32, 16, wmma::row_major>(a, b, c, m, n, k);
}
KERNEL wmma_tf32(const float* a, const float* b, float* c, int m, int n, int k) {
  multiply<wmma::precision::tf32, float, 16, 16, 8, wmma::row_major>(a, b, c, m, n, k);
}

// C [64, 64] = A [64, k] B [64, k]^T by 4 warps: cp.async in three stages, ldmatrix, mma
__device__ uint32_t address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
KERNEL pipelined(const half* A, const half* B, float* C, int k) {
  __shared__ __align__(16) half a[3][64][40], b[3][64][40];
  int t = threadIdx.x, warp = t / 32, lane = t % 32, i0 = warp / 2 * 32, j0 = warp % 2 * 32;
  float sum[2][4][4] = {};
  auto fetch = [&](int stage, int k0) {
    for (int i = t; i < 256; i += 128) {
      int row = i / 4, column = i % 4 * 8, size = k0 + column < k ? 16 : 0;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address(&a[stage][row][column])),
                   "l"(A + row * k + k0 + column), "r"(size));
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address(&b[stage][row][column])),
                   "l"(B + row * k + k0 + column), "r"(size));
    }
    asm volatile("cp.async.commit_group;");
  };
  fetch(0, 0), fetch(1, 32);
  for (int step = 0; step * 32 < k; step++) {
    asm volatile("cp.async.wait_group 1;");
    __syncthreads();
    fetch((step + 2) % 3, step * 32 + 64);
    int stage = step % 3;
    for (int p = 0; p < 32; p += 16) {
      uint32_t x[2][4], y[4][2];
      for (int i = 0; i < 2; i++)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(x[i][0]), "=r"(x[i][1]), "=r"(x[i][2]), "=r"(x[i][3])
                     : "r"(address(&a[stage][i0 + i * 16 + lane % 16][p + lane / 16 * 8])));
      for (int j = 0; j < 4; j++)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                     : "=r"(y[j][0]), "=r"(y[j][1])
                     : "r"(address(&b[stage][j0 + j * 8 + lane % 8][p + lane / 8 % 2 * 8])));
      for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
          asm volatile(
              "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
              : "+f"(sum[i][j][0]), "+f"(sum[i][j][1]), "+f"(sum[i][j][2]), "+f"(sum[i][j][3])
              : "r"(x[i][0]), "r"(x[i][1]), "r"(x[i][2]), "r"(x[i][3]), "r"(y[j][0]), "r"(y[j][1]));
    }
  }
  asm volatile("cp.async.wait_all;");
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 4; j++)
      for (int half = 0; half < 2; half++) {
        int row = i0 + i * 16 + half * 8 + lane / 4, column = j0 + j * 8 + lane % 4 * 2;
        *(float2*)&C[row * 64 + column] = make_float2(sum[i][j][half * 2], sum[i][j][half * 2 + 1]);
      }
}

KERNEL transposed(const half* x, half* y) {  // four 8 x 8 matrices below each other
  __shared__ __align__(16) half s[32][8];
  for (int i = threadIdx.x; i < 256; i += 32) s[i / 8][i % 8] = x[i];
  __syncwarp();
  uint32_t r[4];
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address(&s[threadIdx.x][0])));
  for (int i = 0; i < 4; i++) ((uint32_t*)y)[i * 32 + threadIdx.x] = r[i];
}

KERNEL atomics(int* i, unsigned* u, float* f, half2* h, unsigned* old) {
  int t = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(&i[0], t), atomicMin(&i[1], -t), atomicMax(&i[2], t);
  atomicAnd(&u[0], ~(1u << t % 32) | 1u), atomicOr(&u[1], 1u << t % 32), atomicXor(&u[2], t), atomicInc(&u[3], 6);
  old[t] = atomicAdd(&u[4], 1u);
  unsigned seen = *(volatile unsigned*)&u[5], assumed;
  do assumed = seen, seen = atomicCAS(&u[5], assumed, assumed * 3 + 1);
  while (seen != assumed);
  atomicAdd(&f[t % 3], 0.5f);
  atomicAdd(h, __floats2half2_rn(1.f, 0.5f));
  __shared__ int shared[4];
  if (threadIdx.x < 4) shared[threadIdx.x] = 0;
  __syncthreads();
  atomicAdd(&shared[t % 4], t);
  __syncthreads();
  if (threadIdx.x < 4) atomicAdd(&i[3], shared[threadIdx.x]);
}

KERNEL warp_operations(const int* x, int* y, unsigned* masks) {
  int t = threadIdx.x, v = x[t];
  y[t] = __shfl_up_sync(~0u, v, 3), y[32 + t] = __shfl_down_sync(~0u, v, 7, 16), y[64 + t] = __shfl_xor_sync(~0u, v, 9);
  y[96 + t] = __shfl_sync(~0u, v, t * 7, 8), y[128 + t] = __reduce_max_sync(~0u, v);
  int among_ten = 0;
  if (t < 10) among_ten = __shfl_sync(0x3ffu, v, (t + 1) % 10);
  y[160 + t] = among_ten;
  masks[t] = __ballot_sync(~0u, v & 1), masks[32 + t] = __match_any_sync(~0u, v % 5);
  masks[64 + t] = v & 1 ? __activemask() : 0;
  masks[96 + t] = __syncthreads_count(v & 1);
}

struct Parameters {
  float a;
  double b;
  short c[4];
};
__constant__ float coefficients[4] = {1, 2, 3, 8.5f};
__device__ int counter = 5;
__device__ __noinline__ double helper(Parameters p, int i, float* side) {
  if (i % 2) *side = p.a + i;
  return p.b * i + p.c[i & 3];
}
KERNEL calls(Parameters p, double* y, float* side, const int* chosen) {
  int i = threadIdx.x;
  float own[4];
  for (int j = 0; j < 4; j++) own[j] = coefficients[j] * i;
  y[i] = helper(p, i, side + i) + (i % 3 == 0 ? helper(p, i + 1, side + i) : 0.0) + own[chosen[i]] + counter;
  switch (chosen[i] + i % 4 * 2) {
    case 0: y[i] += 11; break;
    case 1: y[i] *= 7; break;
    case 2: y[i] -= __popc(i); break;
    case 3: y[i] = -5; break;
    case 5: y[i] += i * i; break;
    case 6: y[i] = -y[i]; break;
  }
}

KERNEL divergent(const int* x, int* steps) {  // Collatz
  int i = blockIdx.x * blockDim.x + threadIdx.x, v = x[i], count = 0;
  while (v != 1) v = v & 1 ? 3 * v + 1 : v / 2, count++;
  steps[i] = count;
}

KERNEL producer_consumer(float* x, int n) {  // warps 0, 1 and 2, 3: barrier 1 is "full", 2 is "empty"
  __shared__ float buffer[64];
  int t = threadIdx.x;
  for (int i = 0; i < n; i++)
    if (t < 64) {
      if (i) asm volatile("bar.sync 2, 128;" ::: "memory");
      buffer[t] = x[i * 64 + t] * 2;
      asm volatile("bar.arrive 1, 128;" ::: "memory");
    } else {
      asm volatile("bar.sync 1, 128;" ::: "memory");
      x[i * 64 + t - 64] = buffer[127 - t];
      if (i + 1 < n) asm volatile("bar.arrive 2, 128;" ::: "memory");
    }
}

KERNEL mathematics(const float* x, float* y, int n) {
  int i = threadIdx.x, j = 0;
  float v = x[i], positive = fabsf(v) + 0.1f;
  for (float r :
       {sinf(v), expf(v), logf(positive), rsqrtf(positive), tanhf(v), erff(v), powf(positive, 1.7f), fmodf(v, 0.3f),
        rintf(v), 1.f / v, __fdividef(v, 3.f), log1pf(positive), cbrtf(v), (float)exp((double)v)})
    y[j++ * n + i] = r;
}

KERNEL halves(const half2* a, const __nv_bfloat162* b, float* y) {  // 9 results, of 32 threads
  int i = threadIdx.x, j = 0;
  half2 x = a[i];
  __nv_bfloat162 z = b[i];
  for (half2 r : {__hadd2(x, x), __hmul2(x, x), __hfma2(x, x, x), __hmax2(x, __float2half2_rn(0.f)),
                  __hlt2(x, __float2half2_rn(0.f))})
    y[j++ * 32 + i] = __high2float(r);
  for (__nv_bfloat162 r :
       {__hadd2(z, z), __hfma2(z, z, z), __hneg2(z), __floats2bfloat162_rn(0.f, __high2float(z) * 1.001f)})
    y[j++ * 32 + i] = __high2float(r);
}

KERNEL say(int n) {
  assert(n > 0);
  if (threadIdx.x < 2) printf("t %d v %.2f %s %llu %c|%5d|%%\n", threadIdx.x, n * 0.5, "abc", 1ull << 40, 'z', n);
}
