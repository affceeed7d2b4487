// Faults of copies in bulk and of mbarriers.
#include "hopper_faults.cuh"

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
