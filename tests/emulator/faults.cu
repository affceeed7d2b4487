// Every kernel twice: as it should be (name_sound) and with a fault (name_faulty).
#define TWICE(name, parameters, arguments)                                     \
  extern "C" __global__ void name##_sound parameters { name<true> arguments; } \
  extern "C" __global__ void name##_faulty parameters { name<false> arguments; }

// Memory

template <bool SOUND>
__device__ void past_the_end(const float* x, float* y) {
  y[threadIdx.x] = x[threadIdx.x + !SOUND];
}
TWICE(past_the_end, (const float* x, float* y), (x, y))

template <bool SOUND>
__device__ void before_the_start(const float* x, float* y) {
  y[(int)threadIdx.x - !SOUND] = x[threadIdx.x];
}
TWICE(before_the_start, (const float* x, float* y), (x, y))

template <bool SOUND>
__device__ void past_shared_memory(const float* x, float* y) {
  __shared__ float s[64];
  s[threadIdx.x + !SOUND] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
TWICE(past_shared_memory, (const float* x, float* y), (x, y))

template <bool SOUND>
__device__ void misaligned(const float* x, float* y) {
  if (threadIdx.x < 15) *(float4*)(y + 4 * threadIdx.x) = *(const float4*)(x + 4 * threadIdx.x + !SOUND);
}
TWICE(misaligned, (const float* x, float* y), (x, y))

template <bool SOUND>
__device__ void misaligned_in_shared_memory(const float* x, float* y) {
  __shared__ float s[64];
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  if (threadIdx.x < 31) *(float2*)(y + 2 * threadIdx.x) = *(float2*)&s[2 * threadIdx.x + !SOUND];
}
TWICE(misaligned_in_shared_memory, (const float* x, float* y), (x, y))

template <bool SOUND>
__device__ void uninitialised(const float* x, float* y) {
  __shared__ float s[64];
  if (SOUND || threadIdx.x < 60) s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
TWICE(uninitialised, (const float* x, float* y), (x, y))

__device__ unsigned address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

template <bool SOUND>
__device__ void no_wait_for_a_copy(const float* x, float* y) {
  __shared__ float s[64];
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4; cp.async.commit_group;" ::"r"(address(&s[threadIdx.x])),
               "l"(x + threadIdx.x));
  if (SOUND) asm volatile("cp.async.wait_group 0;" ::: "memory");
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
TWICE(no_wait_for_a_copy, (const float* x, float* y), (x, y))

template <bool SOUND>
__device__ void store_over_a_copy(const float* x, float* y) {
  __shared__ float s[64];
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(address(&s[threadIdx.x])), "l"(x + threadIdx.x));
  if (SOUND) asm volatile("cp.async.wait_all;" ::: "memory");
  ((volatile float*)s)[threadIdx.x] = 1;
  asm volatile("cp.async.wait_all;" ::: "memory");
  y[threadIdx.x] = s[threadIdx.x];
}
TWICE(store_over_a_copy, (const float* x, float* y), (x, y))

// Races

template <bool SOUND>
__device__ void read_after_write(const float* x, float* y) {
  __shared__ float s[64];
  s[threadIdx.x] = x[threadIdx.x];
  if (SOUND) __syncthreads();
  y[threadIdx.x] = ((volatile float*)s)[SOUND ? 63 - threadIdx.x : threadIdx.x ^ 32];
}
TWICE(read_after_write, (const float* x, float* y), (x, y))

template <bool SOUND>
__device__ void write_after_read(const float* x, float* y) {
  __shared__ float s[64];
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  float v = s[63 - threadIdx.x];
  if (SOUND) __syncthreads();
  s[threadIdx.x] = v;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
TWICE(write_after_read, (const float* x, float* y), (x, y))

template <bool SOUND>
__device__ void write_after_write(const float* x, float* y) {
  __shared__ float s[1];
  s[0] = SOUND ? x[0] : x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[0];
}
TWICE(write_after_write, (const float* x, float* y), (x, y))

template <bool SOUND>
__device__ void read_after_atomic(const float* x, float* y) {
  __shared__ float s;
  if (threadIdx.x == 0) s = 0;
  __syncthreads();
  atomicAdd(&s, x[threadIdx.x]);
  if (SOUND) __syncthreads();
  y[threadIdx.x] = *(volatile float*)&s;
}
TWICE(read_after_atomic, (const float* x, float* y), (x, y))

template <bool SOUND>
__device__ void arrives_twice(const float* x, float* y) {  // warp 0 gives, warp 1 takes
  __shared__ float s[32];
  constexpr int COUNT = SOUND ? 64 : 96;
  if (threadIdx.x < 32) {
    s[threadIdx.x] = x[threadIdx.x];
    asm volatile("bar.arrive 1, %0;" ::"n"(COUNT) : "memory");
    if (!SOUND) asm volatile("bar.arrive 1, %0;" ::"n"(COUNT) : "memory");
  } else {
    asm volatile("bar.sync 1, %0;" ::"n"(COUNT) : "memory");
    y[threadIdx.x] = s[threadIdx.x - 32];
  }
}
TWICE(arrives_twice, (const float* x, float* y), (x, y))

template <bool SOUND>
__device__ void races_in_global_memory(const float* x, float* y) {
  y[threadIdx.x] = x[threadIdx.x];
  if (SOUND) __syncthreads();
  float v = ((volatile float*)y)[threadIdx.x ^ 32];
  __syncthreads();
  y[threadIdx.x] = v;
}
TWICE(races_in_global_memory, (const float* x, float* y), (x, y))

// Divergence

template <bool SOUND>
__device__ void barrier_of_a_few(const float* x, float* y) {
  if (SOUND || threadIdx.x < 48) asm volatile("bar.sync 0;" ::: "memory");
  y[threadIdx.x] = x[threadIdx.x];
  if (!SOUND && threadIdx.x >= 48) asm volatile("bar.sync 0;" ::: "memory");
}
TWICE(barrier_of_a_few, (const float* x, float* y), (x, y))

template <bool SOUND>
__device__ void different_barriers(const float* x, float* y) {
  if (SOUND || threadIdx.x < 32)
    asm volatile("bar.sync 1, 64;" ::: "memory");
  else
    asm volatile("bar.sync 2, 64;" ::: "memory");
  y[threadIdx.x] = x[threadIdx.x];
}
TWICE(different_barriers, (const float* x, float* y), (x, y))

template <bool SOUND>
__device__ void shuffle_from_outside(const float* x, float* y) {
  float v = x[threadIdx.x];
  if (threadIdx.x < 16) v = __shfl_sync(0xffffu, v, SOUND ? 3 : threadIdx.x + 8);
  y[threadIdx.x] = v;
}
TWICE(shuffle_from_outside, (const float* x, float* y), (x, y))

template <bool SOUND>
__device__ void shuffle_with_the_absent(const float* x, float* y) {
  float v = x[threadIdx.x];
  if (SOUND || threadIdx.x % 32 < 16)
    v = __shfl_xor_sync(0xffffffffu, v, 1);
  else
    y[threadIdx.x] = -1;
  y[threadIdx.x] = v;
}
TWICE(shuffle_with_the_absent, (const float* x, float* y), (x, y))

template <bool SOUND>
__device__ void traps(const float* x, float* y) {
  if (!SOUND && threadIdx.x == 3) __trap();
  y[threadIdx.x] = x[threadIdx.x];
}
TWICE(traps, (const float* x, float* y), (x, y))

template <bool SOUND>
__device__ void endless(const float* x, float* y) {
  while (!SOUND && *(volatile const float*)x == 1) y[threadIdx.x] = 2;
  y[threadIdx.x] = x[threadIdx.x];
}
TWICE(endless, (const float* x, float* y), (x, y))

// Programs

__device__ unsigned ticket;

// The last program adds what all have written: a fence before the ticket, and one behind it.
template <bool RELEASES, bool ACQUIRES, bool FENCE_BEHIND_BARRIER>
__device__ void last_one_adds(const float* x, float* parts, float* sum) {
  __shared__ bool is_last;
  parts[blockIdx.x * 64 + threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
  if (RELEASES && !FENCE_BEHIND_BARRIER) __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    if (RELEASES && FENCE_BEHIND_BARRIER) __threadfence();
    is_last = atomicAdd(&ticket, 1) == gridDim.x - 1;
    if (ACQUIRES && FENCE_BEHIND_BARRIER) __threadfence();
  }
  __syncthreads();
  if (ACQUIRES && !FENCE_BEHIND_BARRIER) __threadfence();
  if (!is_last || threadIdx.x) return;
  float total = 0;
  for (int i = 0; i < gridDim.x * 64; i++) total += parts[i];
  *sum = total;
  parts[0] = 0;  // nobody needs it any more
}
#define LAST(name, ...)                                                       \
  extern "C" __global__ void name(const float* x, float* parts, float* sum) { \
    last_one_adds<__VA_ARGS__>(x, parts, sum);                                \
  }
LAST(last_fences_of_one, true, true, true)
LAST(last_fences_of_all, true, true, false)
LAST(last_no_release, false, true, true)
LAST(last_no_acquire, true, false, true)
LAST(last_no_acquire_of_all, true, false, false)

// The same by release and acquire of the atomic; the others wait for the first program.
extern "C" __global__ void first_one_gives(const float* x, unsigned* flag, float* between, float* y) {
  if (blockIdx.x == 0) {
    between[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0) asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(flag) : "memory");
  } else {
    if (threadIdx.x == 0)
      for (unsigned seen = 0; !seen;)
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
    __syncthreads();
  }
  y[blockIdx.x * 64 + threadIdx.x] = between[63 - threadIdx.x];
}

// Programs in a chain, each of which adds to what the one before it gave.
extern "C" __global__ void chain(const float* x, volatile unsigned* done, float* sums) {
  if (blockIdx.x) {
    while (!done[blockIdx.x - 1]);
    __threadfence();
  }
  sums[blockIdx.x] = x[blockIdx.x] + (blockIdx.x ? sums[blockIdx.x - 1] : 0);
  if (blockIdx.x == gridDim.x - 1)
    for (int i = 0; i < blockIdx.x; i++) sums[blockIdx.x] += 0 * sums[i];  // of all before it
  __threadfence();
  done[blockIdx.x] = 1;
}

extern "C" __global__ void counter_under_a_lock(unsigned* lock, int* count) {
  if (threadIdx.x) return;
  while (atomicCAS(lock, 0, 1));
  __threadfence();
  *count += 1;
  __threadfence();
  atomicExch(lock, 0);
}
