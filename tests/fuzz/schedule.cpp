// The tickets of csrc/cpu/schedule.h by themselves, for ThreadSanitizer: every tile adds to what its blocks own. With
// an argument also to what nobody owns, a race that has to be found.
#include "cpu/schedule.h"

#include <cstdio>

using fastpixcon::cpu::TileSchedule;
using Place = TileSchedule::Place;

template <class Schedule>
double run(Schedule schedule, int64_t rows, int64_t columns, bool triangle, bool planted) {
  std::vector<double> of_row(rows), of_column(columns);
  double nobodys = 0;
  schedule.run(16, [&](Place at, Place, Place, float*) {
    for (int k = 0; k < 100; ++k) {
      of_row[at.I] += 1;
      (triangle ? of_row : of_column)[at.J] += 1;
    }
    if (planted) nobodys += 1;
  });
  double sum = 0;
  for (double x : of_row) sum += x;
  for (double x : of_column) sum += x;
  return sum;
}

int main(int argc, char**) {
  const auto all = [](int64_t, int64_t) { return true; };
  at::set_num_threads(4);
  for (int round = 0; round < 10; ++round) {
    const double a = run(TileSchedule::triangle(37, 2, all), 37, 0, true, argc > 1);
    const double b = run(TileSchedule::rectangle(23, 12, 2, 3, true, all), 23, 12, false, argc > 1);
    if (a != 200.0 * 37 * 38 / 2 || b != 200.0 * 23 * 12) return std::printf("sums: %f, %f\n", a, b), 1;
  }
}
