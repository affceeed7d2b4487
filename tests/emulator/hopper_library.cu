// As libcu++ and cooperative groups write it.
#include <cooperative_groups.h>

#include <cuda/barrier>
#include <cuda/ptx>

namespace ptx = cuda::ptx;

extern "C" __global__ void __cluster_dims__(2, 1, 1) swapped(unsigned* out) {
  __shared__ unsigned s[32];
  auto cluster = cooperative_groups::this_cluster();
  s[threadIdx.x] = threadIdx.x + 100 * cluster.block_rank();
  cluster.sync();
  out[blockIdx.x * 32 + threadIdx.x] = cluster.map_shared_rank(s, cluster.block_rank() ^ 1)[threadIdx.x];
  cluster.sync();
}

extern "C" __global__ void doubled(const float* x, float* y) {
  __shared__ alignas(128) float s[128];
  __shared__ uint64_t bar;
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(&bar, blockDim.x);
    ptx::fence_proxy_async(ptx::space_shared);
  }
  __syncthreads();
  uint64_t token;
  if (threadIdx.x == 0) {
    ptx::cp_async_bulk(ptx::space_cluster, ptx::space_global, s, x, sizeof(s), &bar);
    token = ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cta, ptx::space_shared, &bar, sizeof(s));
  } else {
    token = ptx::mbarrier_arrive(&bar);
  }
  while (!ptx::mbarrier_try_wait(&bar, token)) {
  }
  s[threadIdx.x] *= 2;
  ptx::fence_proxy_async(ptx::space_shared);
  __syncthreads();
  if (threadIdx.x == 0) {
    ptx::cp_async_bulk(ptx::space_global, ptx::space_shared, y, s, sizeof(s));
    ptx::cp_async_bulk_commit_group();
    ptx::cp_async_bulk_wait_group_read(ptx::n32_t<0>{});
  }
}

using Barrier = cuda::barrier<cuda::thread_scope_block>;

extern "C" __global__ void copied(const float* x, float* y) {
  __shared__ alignas(128) float s[128];
#pragma nv_diag_suppress static_var_with_dynamic_init
  __shared__ Barrier bar;
  if (threadIdx.x == 0) {
    init(&bar, blockDim.x);
    ptx::fence_proxy_async(ptx::space_shared);
  }
  __syncthreads();
  if (threadIdx.x == 0) cuda::memcpy_async(s, x, cuda::aligned_size_t<16>(sizeof(s)), bar);
  bar.wait(bar.arrive());
  y[threadIdx.x] = s[threadIdx.x];
}
