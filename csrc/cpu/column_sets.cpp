#include "cpu/column_sets.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <cstring>

namespace fastpixcon::cpu {
namespace {

constexpr Part kParts[] = {Part::kRight, Part::kValues};  // what a bank is in products

template <class scalar_t>
void widen(const scalar_t* from, int64_t count, float* to) {
  for (int64_t k = 0; k < count; ++k) to[k] = static_cast<float>(from[k]);
}

void widen(const c10::BFloat16* from, int64_t count, float* to) {  // in a form that compilers make vectors of
  const uint16_t* bits = &from->x;
  for (int64_t k = 0; k < count; ++k) {
    const uint32_t word = static_cast<uint32_t>(bits[k]) << 16;
    std::memcpy(to + k, &word, 4);
  }
}

}  // namespace

BankColumns::BankColumns(const BankRows& bank, const TileKernels& kernels)
    : bank_(bank.x.contiguous()),
      labels_(bank.labels.contiguous()),
      kernels_(kernels),
      K_(bank.x.size(0)),
      S_(bank.x.size(1)),
      D_(bank.x.size(2)) {}

bool BankColumns::load(int64_t j0, int64_t n, BlockBuffer& buffer, ColumnBlock& block) const {
  const int32_t* label = labels_.const_data_ptr<int32_t>() + j0;
  bool any = false, all = true;
  for (int64_t j = 0; j < n; ++j) {
    const bool counts = label[j] >= 0;
    any |= counts;
    all &= counts;
    buffer.present[j] = -static_cast<int32_t>(counts);
    buffer.number[j] = static_cast<int32_t>(j0 + j);
  }
  if (!any) return false;
  const int64_t lanes = kernels_.lanes, count = round_up(n, lanes), stride = odd_lines(round_up(D_, lanes));
  if (buffer.rows == nullptr) {
    const int64_t most = round_up(kTile, lanes);
    buffer.rows.reset(new float[most * stride]);
    for (Part part : kParts)
      if (const int64_t size = kernels_.pack_size(part, most, D_, stride); size > 0)
        buffer.packed[static_cast<int>(part)].reset(new float[size]);
  }
  float* rows = buffer.rows.get();  // [count][stride]
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, bank_.scalar_type(), "BankColumns", [&] {
    const scalar_t* from = bank_.const_data_ptr<scalar_t>() + j0 * D_;
    for (int64_t j = 0; j < n; ++j) {
      widen(from + j * D_, D_, rows + j * stride);
      std::fill(rows + j * stride + D_, rows + (j + 1) * stride, 0.0f);
    }
  });
  std::fill(rows + n * stride, rows + count * stride, 0.0f);
  Operand operand{rows, stride, D_, count};
  for (Part part : kParts) {
    float* out = buffer.packed[static_cast<int>(part)].get();
    if (out != nullptr) kernels_.pack(part, operand, out, 0, count / lanes);
    operand.packed[static_cast<int>(part)] = out;
  }
  block = {operand, 0, all ? nullptr : buffer.present, buffer.number};
  return true;
}

Tasks::Tasks(int64_t rows_, int64_t block, int64_t lanes, int64_t bytes) : rows(rows_) {
  constexpr int64_t kMostBlocks = 8;       // a packed block of columns serves so many blocks of rows
  constexpr int64_t kMostBytes = 1 << 25;  // of the sums of all shards, beyond one for each thread
  const int64_t threads = at::get_num_threads();
  chunks = (rows + kMostBlocks * block - 1) / (kMostBlocks * block);
  chunk = std::max(lanes, round_up((rows + std::max<int64_t>(chunks, 1) - 1) / std::max<int64_t>(chunks, 1), lanes));
  const int64_t enough = (threads + chunks - 1) / std::max<int64_t>(chunks, 1);
  const int64_t even = (4 * threads + chunks - 1) / std::max<int64_t>(chunks, 1);
  const int64_t fitting =
      kMostBytes / std::max<int64_t>(1, std::min(rows, chunk) * bytes * std::max<int64_t>(chunks, 1));
  shards = std::max<int64_t>({1, enough, std::min(even, fitting)});
}

}  // namespace fastpixcon::cpu
