// A panel of anchors against all columns of a separate contrast set, whose dot products stay until their gradient is
// made of them: products are computed once.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "cpu/problem.h"
#include "cpu/scratch.h"

namespace fastpixcon::cpu {

// [0, n) in panels of `size`; the last two of each thread are smaller, so that all threads end at one time.
struct Panels {
  int64_t n, size, whole, last;  // `whole` panels, and then of `last`

  Panels(int64_t n_, int64_t size_) : n(n_), size(size_) {
    constexpr int64_t kLeast = 32;  // with fewer the columns go through the caches too often
    const int64_t threads = at::get_num_threads(), rounds = (n + size * threads - 1) / (size * threads);
    const int64_t smaller = std::min<int64_t>(rounds, 2);
    whole = (rounds - smaller) * threads;
    const int64_t each = smaller == 0 ? 0 : (n - whole * size + smaller * threads - 1) / (smaller * threads);
    last = std::clamp(round_up(each, 16), std::min(kLeast, size), size);
  }
  int64_t count() const { return whole + (n - whole * size + last - 1) / last; }
  int64_t first(int64_t k) const { return k < whole ? k * size : whole * size + (k - whole) * last; }
  int64_t length(int64_t k) const { return std::min(k < whole ? size : last, n - first(k)); }
};

class Panel {
 public:
  int64_t i0 = 0, m = 0;  // anchors [i0, i0 + m)
  int64_t number = 0;     // of this panel
  const Operand& rows;    // its anchors, from 0 on
  float* d_rows;          // [rows.count][stride] for their gradient, not initialised

  // Anchors of a panel, so few that panels are little beside rows and gradients; with fewer still the gradient of the
  // columns, which goes through the caches for every panel, would take longer than products anew. 0: there would be
  // more than 64 MiB of them, for many threads and columns.
  static int64_t size(const Problem& p) {
    constexpr int64_t kMostBytes = int64_t{64} << 20, kRows = 96;
    const int64_t lanes = p.kernels.lanes;  // kernels may write whole ones
    const int64_t rows = round_up(std::clamp<int64_t>(p.anchors.n, 1, std::min(kRows, p.kernels.block)), lanes);
    const int64_t columns = std::max<int64_t>(p.column_blocks.count(), 1);
    return at::get_num_threads() * rows * columns * kTileStride * 4 > kMostBytes ? 0 : rows;
  }

  static Panels all(const Problem& p) { return {p.anchors.n, size(p)}; }

  // Runs work(panel) on all panels of a problem, whose anchors x [N, D] are; `values`: their gradient tiles multiply
  // these. Each takes the columns in turn: blocks of columns see the panels in their order, whatever thread has them,
  // so results do not depend on timing.
  template <class Work>
  static void for_all(Problem& p, const at::Tensor& x, bool values, const Work& work) {
    const int64_t columns = p.column_blocks.count();
    const Panels panels = all(p);
    std::atomic<int64_t> next{0};
    std::unique_ptr<std::atomic<int64_t>[]> done(new std::atomic<int64_t>[columns]);  // panels that had the columns
    for (int64_t J = 0; J < columns; ++J) done[J].store(0, std::memory_order_relaxed);
    // A thread takes panels in their order, so those that it waits for are already taken and never wait for it.
    at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
      // Before others may wait for this thread.
      const at::Tensor products = scratch({columns, panels.size, kTileStride});
      const at::Tensor d_rows = scratch({round_up(panels.size, p.kernels.lanes), p.anchors.operand.stride});
      SomeRows rows(p.anchors, x, panels.size, values, p.kernels);
      for (int64_t number = next++; number < panels.count(); number = next++)
        work(Panel(p, panels, number, rows.take(panels.first(number), panels.length(number)),
                   d_rows.mutable_data_ptr<float>(), products.mutable_data_ptr<float>(), done.get()));
    });
  }

  // work(view, first column) on the new products with every block of columns.
  template <class Work>
  void compute(const Work& work) const {
    for (int64_t J = 0; J < p_.column_blocks.count(); ++J) {
      Ahead next;
      if (J + 1 < p_.column_blocks.count())
        p_.kernels.ahead_of(p_.contrast().operand, Part::kRight, j0(J + 1), p_.column_blocks.length(J + 1), next);
      p_.kernels.logits(rows, 0, m, p_.contrast().operand, j0(J), p_.column_blocks.length(J), tile(J), next);
      view(J, work);
    }
  }
  // The same again, where there are positives.
  template <class Work>
  void where_positives(const Work& work) const {
    for (int64_t J = 0; J < p_.column_blocks.count(); ++J)
      if (has_positives(J)) view(J, work);
  }
  // Everywhere, and in_turn(view, first column) after the panels before this one had these columns; a thread that would
  // wait for another works ahead, as far as its columns go.
  template <class Work, class InTurn>
  void finish(const Work& work, const InTurn& in_turn) const {
    const int64_t columns = p_.column_blocks.count();
    int64_t next = 0;  // whose turn it is
    const auto take = [&] {
      view(next, in_turn);
      done_[next++].store(number + 1, std::memory_order_release);
    };
    const auto may_take = [&] { return done_[next].load(std::memory_order_acquire) == number; };
    for (int64_t J = 0; J < columns; ++J) {
      view(J, work);
      while (next <= J && may_take()) take();
    }
    while (next < columns) {
      while (!may_take()) std::this_thread::yield();
      take();
    }
  }

 private:
  Panel(const Problem& p, const Panels& panels, int64_t number_, const Operand& rows_, float* d_rows_, float* products,
        std::atomic<int64_t>* done)
      : i0(panels.first(number_)),
        m(panels.length(number_)),
        number(number_),
        rows(rows_),
        d_rows(d_rows_),
        p_(p),
        size_(panels.size),
        products_(products),
        done_(done) {}

  int64_t j0(int64_t J) const { return p_.column_blocks.first(J); }
  float* tile(int64_t J) const { return products_ + J * size_ * kTileStride; }
  bool has_positives(int64_t J) const {
    return p_.has_positives_between(i0, i0 + m, j0(J), j0(J) + p_.column_blocks.length(J));
  }
  template <class Work>
  void view(int64_t J, const Work& work) const {
    p_.view_tile(has_positives(J), i0, m, j0(J), p_.column_blocks.length(J), tile(J),
                 [&](const TileView& view) { work(view, j0(J)); });
  }

  const Problem& p_;
  int64_t size_;     // rows of a tile
  float* products_;  // [blocks of columns][size][kTileStride]
  std::atomic<int64_t>* done_;
};

}  // namespace fastpixcon::cpu
