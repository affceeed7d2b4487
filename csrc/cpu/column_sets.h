// Contrast sets without gradient, block by block: rows that were sorted and packed before, or a memory bank where it
// lies.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "cpu/sorted_rows.h"

namespace fastpixcon::cpu {

// Columns [first, last) of a set.
struct Columns {
  int64_t first, last;
};

// A block of columns as tiles need it. Pointers are into the set or into the thread's buffer.
struct ColumnBlock {
  Operand operand;
  int64_t first;           // of the block's rows in the operand
  const int32_t* present;  // [n] which of them count; null: all
  const int32_t* number;   // [n] their numbers in the hash
};

// A thread's room for a block of a bank.
struct BlockBuffer {
  std::unique_ptr<float[]> rows, packed[3];
  int32_t present[kTileStride], number[kTileStride];
};

// The bank [K, S, D]: bank[c] are rows of class c, empty where their label is -1. A block of them is converted and
// packed for as many anchors as a task has; the bank is never copied as a whole.
class BankColumns {
 public:
  BankColumns(const BankRows& bank, const TileKernels& kernels);

  int64_t size() const { return K_ * S_; }
  int64_t classes() const { return K_; }
  // Of an anchor's label: the ring of its class.
  Columns positives(int64_t label) const {
    return label >= 0 && label < K_ ? Columns{label * S_, (label + 1) * S_} : Columns{0, 0};
  }
  // False if none of the columns [j0, j0 + n) counts. `buffer` belongs to the thread.
  bool load(int64_t j0, int64_t n, BlockBuffer& buffer, ColumnBlock& block) const;

 private:
  at::Tensor bank_, labels_;
  const TileKernels& kernels_;
  int64_t K_, S_, D_;
};

// Rows of the batch, sorted by class.
class SortedColumns {
 public:
  explicit SortedColumns(const SortedRows& set) : set_(set) {}

  int64_t size() const { return set_.n; }
  Columns positives(int64_t label) const {
    const auto [first, last] = std::equal_range(set_.label.begin(), set_.label.end(), label);
    return {first - set_.label.begin(), last - set_.label.begin()};
  }
  bool load(int64_t j0, int64_t, BlockBuffer&, ColumnBlock& block) const {
    block = {set_.operand, j0, nullptr, nullptr};
    return true;
  }

 private:
  const SortedRows& set_;
};

// How rows and columns are shared out: chunks of rows, whose sums are one task's, and shards of the columns.
struct Tasks {
  int64_t rows, chunk, chunks, shards;

  // Chunks are multiples of `lanes`; `bytes`: of the sums of a row.
  Tasks(int64_t rows, int64_t block, int64_t lanes, int64_t bytes);
  int64_t first_row(int64_t c) const { return c * chunk; }
  int64_t last_row(int64_t c) const { return std::min(rows, (c + 1) * chunk); }
  // Columns of shard s, from multiples of the block on.
  Columns shard(int64_t s, Columns all, int64_t block) const {
    const int64_t blocks = (all.last - all.first + block - 1) / block, part = (blocks + shards - 1) / shards * block;
    return {std::min(all.last, all.first + s * part), std::min(all.last, all.first + (s + 1) * part)};
  }
};

}  // namespace fastpixcon::cpu
