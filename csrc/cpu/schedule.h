// Which tiles of the logits are computed, in what order, by whom.
//
// A tile (I, J) adds to what row block I and column block J own (sums, gradients). Each block takes its tiles in
// the order of the list, whatever thread computes them, so results do not depend on timing. A thread takes the tiles
// of a few row blocks and a few column blocks together, back and forth, so that from one tile to the next only one
// block changes and the other is still in its cache. These tasks come in rounds that share no block, so threads
// rarely wait for each other, and there is no barrier.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace fastpixcon::cpu {

// [0, n) in blocks of `size`, a multiple of `lanes`.
struct Blocks {
  int64_t n, size;

  // Blocks of at most `most`, and enough of them, `each` a thread, to keep all busy; an odd count makes rounds even.
  static Blocks split(int64_t n, int64_t lanes, int64_t most, int64_t each = 6) {
    const int64_t wanted = std::max<int64_t>((n + most - 1) / most, each * at::get_num_threads()) | 1;
    const int64_t size = ((n + wanted - 1) / wanted + lanes - 1) / lanes * lanes;
    return {n, std::max(lanes, std::min(size, most))};
  }
  int64_t count() const { return (n + size - 1) / size; }
  int64_t first(int64_t block) const { return block * size; }
  int64_t length(int64_t block) const { return std::min(size, n - block * size); }
};

class TileSchedule {
 public:
  struct Place {
    int64_t I = -1, J = -1;  // -1: no tile
  };

  // Blocks that a task takes together: few enough for all threads to have tasks that share none.
  static int64_t group(int64_t blocks) {
    return std::clamp<int64_t>(blocks / (4 * at::get_num_threads()), 1, kLargestGroup);
  }

  // All pairs I <= J of `blocks` blocks for which keep(I, J): rows and columns are the same blocks.
  template <class Keep>
  static TileSchedule triangle(int64_t blocks, int64_t group, const Keep& keep) {
    TileSchedule schedule(blocks, 0);
    // A round-robin tournament of an odd number of players: in round r the players c + t and c - t meet, 2 c = r modulo
    // their number. Who meets late in a round meets late in the next, if every other round runs backwards.
    const int64_t players = ((blocks + group - 1) / group) | 1, last = players / 2;
    for (int64_t r = 0; r < players; ++r)
      for (int64_t k = 0; k <= last; ++k) {
        const int64_t c = r * (last + 1), t = r % 2 == 0 ? k : last - k;
        const int64_t i = (c + t) % players, j = (c + players - t) % players;
        schedule.add_task(std::min(i, j), std::max(i, j), group, group, blocks, blocks, keep);
      }
    return schedule;
  }

  // All pairs of `rows` x `columns` blocks for which keep(I, J). Unless both sides own something, only row blocks
  // order their tiles.
  template <class Keep>
  static TileSchedule rectangle(int64_t rows, int64_t columns, int64_t row_group, int64_t column_group,
                                bool columns_own, const Keep& keep) {
    TileSchedule schedule(rows, columns_own ? columns : -1);
    const int64_t m = (rows + row_group - 1) / row_group, n = (columns + column_group - 1) / column_group;
    for (int64_t r = 0; r < std::max(m, n); ++r)
      for (int64_t k = 0; k < std::min(m, n); ++k)
        schedule.add_task(m <= n ? k : (k + r) % m, m <= n ? (k + r) % n : k, row_group, column_group, rows, columns,
                          keep);
    return schedule;
  }

  // work(tile, the one before, the one after, tile buffer) for every tile, before and after being this thread's;
  // `scratch` floats a thread.
  template <class Work>
  void run(int64_t scratch, const Work& work) {
    std::atomic<size_t> next{0};
    std::unique_ptr<std::atomic<int32_t>[]> done(new std::atomic<int32_t>[tickets_.size()]);
    for (size_t b = 0; b < tickets_.size(); ++b) done[b].store(0, std::memory_order_relaxed);
    const auto wait = [&](int64_t owner, int32_t ticket) {
      while (done[owner].load(std::memory_order_acquire) != ticket) std::this_thread::yield();
    };
    // A thread takes tasks in list order, so the tiles it waits for are already taken and never wait for it.
    at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
      std::unique_ptr<float[]> buffer(new float[scratch]);
      Place before;
      for (size_t task = next++; task < tasks_.size();) {
        const size_t end = task + 1 < tasks_.size() ? tasks_[task + 1] : tiles_.size();
        for (size_t k = tasks_[task]; k < end; ++k) {
          const Tile& tile = tiles_[k];
          if (k + 1 == end) task = next++;
          const size_t then = k + 1 < end ? k + 1 : task < tasks_.size() ? tasks_[task] : tiles_.size();
          wait(tile.at.I, tile.ticket_i);
          if (tile.owner_j >= 0) wait(tile.owner_j, tile.ticket_j);
          work(tile.at, before, then < tiles_.size() ? tiles_[then].at : Place{}, buffer.get());
          done[tile.at.I].fetch_add(1, std::memory_order_release);
          if (tile.owner_j >= 0) done[tile.owner_j].fetch_add(1, std::memory_order_release);
          before = tile.at;
        }
      }
    });
  }

 private:
  static constexpr int64_t kLargestGroup = 4;  // more blocks do not fit beside each other in a share of the last cache

  struct Tile {
    Place at;
    int64_t owner_j;  // -1 where the column block owns nothing or is the row block
    int32_t ticket_i, ticket_j;
  };

  // columns: 0: the columns are the rows; -1: the columns own nothing
  TileSchedule(int64_t rows, int64_t columns)
      : rows_(rows), columns_(columns), tickets_(rows + std::max<int64_t>(columns, 0), 0) {}

  // The kept tiles of the i-th group of row blocks and the j-th group of column blocks.
  template <class Keep>
  void add_task(int64_t i, int64_t j, int64_t row_group, int64_t column_group, int64_t rows, int64_t columns,
                const Keep& keep) {
    const size_t first = tiles_.size();
    bool back = false;
    for (int64_t I = i * row_group; I < std::min(rows, (i + 1) * row_group); ++I, back = !back) {
      const int64_t from = j * column_group, to = std::min(columns, from + column_group);
      for (int64_t k = from; k < to; ++k) {
        const int64_t J = back ? to - 1 - (k - from) : k;
        if ((columns_ != 0 || I <= J) && keep(I, J)) add(I, J);
      }
    }
    if (tiles_.size() > first) tasks_.push_back(first);
  }

  void add(int64_t I, int64_t J) {
    int64_t owner_j = columns_ < 0 ? -1 : columns_ == 0 ? J : rows_ + J;
    if (owner_j == I) owner_j = -1;
    const int32_t ticket_i = tickets_[I]++;
    tiles_.push_back({{I, J}, owner_j, ticket_i, owner_j < 0 ? 0 : tickets_[owner_j]++});
  }

  int64_t rows_, columns_;
  std::vector<int32_t> tickets_;
  std::vector<Tile> tiles_;
  std::vector<size_t> tasks_;  // the first tile of each
};

}  // namespace fastpixcon::cpu
