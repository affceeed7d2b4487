// Tells ThreadSanitizer what OpenMP promises, for libgomp is not instrumented: whatever comes before a parallel region
// happens before each thread's part of it, and each part before what follows the region. Nothing else is promised, so
// that what two threads do within a region is compared as it stands. Linked with --wrap=GOMP_parallel, see setup.py.

extern "C" {

void __tsan_acquire(void*);
void __tsan_release(void*);
void __real_GOMP_parallel(void (*work)(void*), void* data, unsigned threads, unsigned flags);

namespace {

struct Region {
  void (*work)(void*);
  void* data;
  char fork, join;  // their addresses name the two moments
};

void part(void* of) {
  Region* region = static_cast<Region*>(of);
  __tsan_acquire(&region->fork);
  region->work(region->data);
  __tsan_release(&region->join);
}

}  // namespace

void __wrap_GOMP_parallel(void (*work)(void*), void* data, unsigned threads, unsigned flags) {
  Region region{work, data, 0, 0};
  __tsan_release(&region.fork);
  __real_GOMP_parallel(part, &region, threads, flags);
  __tsan_acquire(&region.join);
}

}  // extern "C"
