// CUB's primitives of a block, as anybody would call them, and its scan of a device.
#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#include <cub/warp/warp_reduce.cuh>

extern "C" __global__ void sort_pairs(const unsigned* keys, unsigned* sorted, unsigned* places) {  // 512 a block
  using Sort = cub::BlockRadixSort<unsigned, 128, 4, unsigned>;
  __shared__ typename Sort::TempStorage storage;
  unsigned key[4], place[4], first = blockIdx.x * 512 + threadIdx.x * 4;
  for (int i = 0; i < 4; i++) key[i] = keys[first + i], place[i] = first + i;
  Sort(storage).Sort(key, place);
  for (int i = 0; i < 4; i++) sorted[first + i] = key[i], places[first + i] = place[i];
}

extern "C" __global__ void scan(const int* x, int* inclusive, int* exclusive, int* total) {  // 256 a block
  using Raking = cub::BlockScan<int, 256, cub::BLOCK_SCAN_RAKING>;
  using Warps = cub::BlockScan<int, 256, cub::BLOCK_SCAN_WARP_SCANS>;
  __shared__ union {
    typename Raking::TempStorage raking;
    typename Warps::TempStorage warps;
  } storage;
  int i = blockIdx.x * 256 + threadIdx.x, sum, all;
  Raking(storage.raking).InclusiveSum(x[i], sum);
  inclusive[i] = sum;
  __syncthreads();
  Warps(storage.warps).ExclusiveSum(x[i], sum, all);
  exclusive[i] = sum;
  if (threadIdx.x == 0) total[blockIdx.x] = all;
}

extern "C" __global__ void reduce(const double* x, double* sums, double* maxima) {  // 256 a block
  using Block = cub::BlockReduce<double, 256>;
  using Warp = cub::WarpReduce<double>;
  __shared__ typename Block::TempStorage block;
  __shared__ typename Warp::TempStorage warp[8];
  double value = x[blockIdx.x * 256 + threadIdx.x];
  double sum = Block(block).Sum(value);
  double largest = Warp(warp[threadIdx.x / 32]).Reduce(value, [](double a, double b) { return a > b ? a : b; });
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
  if (threadIdx.x % 32 == 0) maxima[blockIdx.x * 8 + threadIdx.x / 32] = largest;
}
