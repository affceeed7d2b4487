// memory_enqueue_ on the CPU (fastpixcon/ops/memory_enqueue_.py is the contract).
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "common/checks.h"

namespace fastpixcon::cpu {
namespace {

using at::Tensor;

struct Move {
  int64_t from, k, place;
};

// Rows [.., D] into the rings bank[:, first : first + size].
void enqueue(const Tensor& bank, const Tensor& bank_labels, int64_t first, int64_t size, int64_t* written,
             const Tensor& rows_in, const Tensor& labels_in) {
  const Tensor rows = rows_in.contiguous(), labels = labels_in.contiguous();
  const int64_t K = bank.size(0), D = bank.size(2), R = rows.size(0);
  const int32_t* label = labels.const_data_ptr<int32_t>();
  std::vector<int64_t> count(K), rank(K);
  for (int64_t r = 0; r < R; ++r)
    if (label[r] >= 0 && label[r] < K) ++count[label[r]];
  std::vector<Move> moves;
  for (int64_t r = 0; r < R; ++r) {
    const int64_t k = label[r];
    if (k < 0 || k >= K) continue;
    const int64_t number = rank[k]++;
    if (number >= count[k] - size) moves.push_back({r, k, (written[k] + number) % size});  // of too many the last ones
  }
  for (int64_t k = 0; k < K; ++k) written[k] += count[k];
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, bank.scalar_type(), "memory_enqueue_", [&] {
    using bank_t = scalar_t;
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, rows.scalar_type(), "memory_enqueue_", [&] {
      at::parallel_for(0, static_cast<int64_t>(moves.size()), 64, [&](int64_t begin, int64_t end) {
        for (int64_t m = begin; m < end; ++m) {
          const Move& move = moves[m];
          const int64_t place = first + move.place;
          const scalar_t* from = rows.const_data_ptr<scalar_t>() + move.from * D;
          bank_t* to = bank.mutable_data_ptr<bank_t>() + move.k * bank.stride(0) + place * bank.stride(1);
          for (int64_t d = 0; d < D; ++d) to[d * bank.stride(2)] = static_cast<bank_t>(from[d]);
          bank_labels.mutable_data_ptr<int32_t>()[move.k * bank_labels.stride(0) + place * bank_labels.stride(1)] =
              static_cast<int32_t>(move.k);
        }
      });
    });
  });
}

void memory_enqueue_(const Tensor& bank, const Tensor& bank_labels, const Tensor& written, int64_t pixel_size,
                     const Tensor& pixels, const Tensor& pixel_labels, const Tensor& regions,
                     const Tensor& region_labels) {
  check_memory_enqueue(bank, bank_labels, written, pixel_size, pixels, pixel_labels, regions, region_labels);
  TORCH_CHECK_VALUE(written.is_contiguous(), "written: got strides ", written.strides(), ", want a contiguous tensor");
  int64_t* counts = written.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < written.numel(); ++i)  // places in memory are made of them
    TORCH_CHECK_VALUE(counts[i] >= 0 && counts[i] < (int64_t{1} << 62), "written: got ", counts[i],
                      ", want counts in [0, 2^62)");
  enqueue(bank, bank_labels, 0, pixel_size, counts, pixels, pixel_labels);
  enqueue(bank, bank_labels, pixel_size, bank.size(1) - pixel_size, counts + bank.size(0), regions, region_labels);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastpixcon_native, CPU, m) { m.impl("memory_enqueue_", memory_enqueue_); }

}  // namespace fastpixcon::cpu
