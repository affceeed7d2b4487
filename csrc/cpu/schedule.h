// Which tiles of the logits are computed, in what order, by whom.
//
// A tile (I, J) adds to what row block I and column block J own (sums, gradients). Each block takes its tiles in
// the order of the list, whatever thread computes them, so results do not depend on timing. The list comes in
// rounds of tiles that share no block, so threads rarely wait for each other, and there is no barrier.
#pragma once

#include <ATen/Parallel.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace fastpixcon {

// [0, n) in blocks of `size`, a multiple of `lanes`.
struct Blocks {
  int64_t n, size;

  // Blocks of at most `most`, and enough of them to keep all threads busy; an odd count makes rounds even.
  static Blocks split(int64_t n, int64_t lanes, int64_t most) {
    const int64_t wanted = std::max<int64_t>((n + most - 1) / most, 6 * at::get_num_threads()) | 1;
    const int64_t size = ((n + wanted - 1) / wanted + lanes - 1) / lanes * lanes;
    return {n, std::max(lanes, std::min(size, most))};
  }
  int64_t count() const { return (n + size - 1) / size; }
  int64_t first(int64_t block) const { return block * size; }
  int64_t length(int64_t block) const { return std::min(size, n - block * size); }
};

class TileSchedule {
 public:
  // All pairs I <= J of `blocks` blocks for which keep(I, J): rows and columns are the same blocks.
  template <class Keep>
  static TileSchedule triangle(int64_t blocks, const Keep& keep) {
    TileSchedule schedule(blocks, 0);
    const auto add = [&](int64_t i, int64_t j) {
      if (keep(std::min(i, j), std::max(i, j))) schedule.add(std::min(i, j), std::max(i, j));
    };
    // Round r of a round-robin tournament of an odd number of players: i + j = r modulo it, and i = j sits out.
    const int64_t odd = blocks % 2 == 1 ? blocks : blocks - 1;
    for (int64_t r = 0; r < odd; ++r)
      for (int64_t i = 0; i < odd; ++i) {
        const int64_t j = (r - i + odd) % odd;
        if (i < j) add(i, j);
        if (i == j) add(i, odd == blocks ? i : odd);
      }
    if (odd != blocks)
      for (int64_t i = 0; i < blocks; ++i) add(i, i);
    return schedule;
  }

  // All pairs of `rows` x `columns` blocks for which keep(I, J). Unless both sides own something, only row blocks
  // order their tiles.
  template <class Keep>
  static TileSchedule rectangle(int64_t rows, int64_t columns, bool columns_own, const Keep& keep) {
    TileSchedule schedule(rows, columns_own ? columns : -1);
    const int64_t rounds = std::max(rows, columns), few = std::min(rows, columns);
    for (int64_t r = 0; r < rounds; ++r)
      for (int64_t k = 0; k < few; ++k) {
        const int64_t i = rows <= columns ? k : (k + r) % rows;
        const int64_t j = rows <= columns ? (k + r) % columns : k;
        if (keep(i, j)) schedule.add(i, j);
      }
    return schedule;
  }

  // work(I, J, tile buffer, next I, next J) for every tile; `scratch` floats a thread. The next tile is this thread's;
  // -1: there is none.
  template <class Work>
  void run(int64_t scratch, const Work& work) {
    std::atomic<size_t> next{0};
    std::unique_ptr<std::atomic<int32_t>[]> done(new std::atomic<int32_t>[tickets_.size()]);
    for (size_t b = 0; b < tickets_.size(); ++b) done[b].store(0, std::memory_order_relaxed);
    const auto wait = [&](int64_t owner, int32_t ticket) {
      while (done[owner].load(std::memory_order_acquire) != ticket) std::this_thread::yield();
    };
    // A thread takes tiles in list order, so the tiles it waits for are already taken and never wait for it.
    at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
      std::unique_ptr<float[]> buffer(new float[scratch]);
      for (size_t k = next++, then; k < tiles_.size(); k = then) {
        then = next++;
        const Tile& tile = tiles_[k];
        wait(tile.i, tile.ticket_i);
        if (tile.owner_j >= 0) wait(tile.owner_j, tile.ticket_j);
        const bool last = then >= tiles_.size();
        work(tile.i, tile.j, buffer.get(), last ? -1 : tiles_[then].i, last ? -1 : tiles_[then].j);
        done[tile.i].fetch_add(1, std::memory_order_release);
        if (tile.owner_j >= 0) done[tile.owner_j].fetch_add(1, std::memory_order_release);
      }
    });
  }

 private:
  struct Tile {
    int64_t i, j, owner_j;  // owner_j: -1 where the column block owns nothing or is the row block
    int32_t ticket_i, ticket_j;
  };

  // columns: 0: the columns are the rows; -1: the columns own nothing
  TileSchedule(int64_t rows, int64_t columns)
      : rows_(rows), columns_(columns), tickets_(rows + std::max<int64_t>(columns, 0), 0) {}

  void add(int64_t i, int64_t j) {
    int64_t owner_j = columns_ < 0 ? -1 : columns_ == 0 ? j : rows_ + j;
    if (owner_j == i) owner_j = -1;
    const int32_t ticket_i = tickets_[i]++;
    tiles_.push_back({i, j, owner_j, ticket_i, owner_j < 0 ? 0 : tickets_[owner_j]++});
  }

  int64_t rows_, columns_;
  std::vector<int32_t> tickets_;
  std::vector<Tile> tiles_;
};

}  // namespace fastpixcon
