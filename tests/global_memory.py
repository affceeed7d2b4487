"""What a launch does with global memory, seen through ptxemu's profiler: its traffic, array by array, and its races,
which ptxemu does not look for.

Programs of one launch are never ordered, so one must not touch what another writes. The warps of a program are ordered
by its barriers only, and so, stricter than the hardware, are the threads of a warp.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

GRANULE = 2  # bytes; no kernel stores less
SECTOR = 32  # bytes, the least that memory gives
READS, WRITES, ATOMICS = ("ld", "ldu", "cp"), ("st",), ("atom", "red")


@dataclass
class Traffic:
    """Of one array, in one direction; atomics are writes."""

    bytes: int = 0  # asked for by the threads
    sectors: int = 0  # asked for by the warps, a request at a time: what the L2 cache gives
    touched: set[int] = field(default_factory=set)  # sectors, as numbers: what memory gives to a perfect cache
    widths: Counter[int] = field(default_factory=Counter)  # bytes, by the size of a thread's access


class Watcher:
    """Who last wrote every granule of the arrays of a launch, and who read it since, as vector clocks of the warps."""

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        self.traffic: dict[tuple[str, str], Traffic] = {}
        count = len(machine.gm.buf) // GRANULE + 1
        self.writer = np.full(count, -1, np.int64)  # thread of the launch
        self.written = np.zeros(count, np.uint32)  # clock of its warp
        self.atomic = np.zeros(count, bool)
        self.line = np.zeros(count, np.int32)
        self.reader = np.full(count, -1, np.int64)  # thread of the launch; of its warps, the clocks of their last reads
        self.read = np.zeros((count, machine.nW), np.uint32)
        self.shared = np.zeros(count, bool)  # read by several programs

    def access(self, site: Any, addresses: np.ndarray, size: int, active: np.ndarray | None) -> None:
        memory, machine = self.machine.gm, self.machine
        array = np.maximum(np.searchsorted(memory.bases, addresses, "right") - 1, 0)
        inside = (addresses >= memory.bases[array]) & (addresses + size <= memory.ends[array])
        if not inside.all():  # the emulator says so next
            return
        threads = np.arange(machine.T) if active is None else active
        self.count(site.inst.op, array, addresses, size, machine.gw[threads])
        steps = max(1, size // GRANULE)
        granules = ((addresses - memory.deltas[array]) // GRANULE)[:, None] + np.arange(steps)
        self.race(site, granules.reshape(-1), np.repeat(threads, steps))

    def count(self, operation: str, array: np.ndarray, addresses: np.ndarray, size: int, warps: np.ndarray) -> None:
        how = "read" if operation in READS else "write"
        for i in np.unique(array):
            traffic = self.traffic.setdefault((self.machine.gm.allocs[i].name, how), Traffic())
            mine = array == i
            first = addresses[mine] // SECTOR
            traffic.bytes += size * int(mine.sum())
            traffic.widths[size] += size * int(mine.sum())
            traffic.sectors += len(np.unique(np.stack([warps[mine], first]), axis=1).T)
            traffic.touched.update(np.unique(first).tolist())

    def race(self, site: Any, g: np.ndarray, threads: np.ndarray) -> None:
        """Granules g and the threads of the batch that touch them."""
        machine, operation = self.machine, site.inst.op
        thread = machine.first_cta * machine.per + threads
        program, warp, here = thread // machine.per, machine.gw[threads], machine.wk[threads]
        clocks = machine.sh.vc if machine.sh.race_on else np.ones((machine.W, machine.nW), np.uint32)
        now = clocks[warp, here]

        def check(bad: np.ndarray, what: str) -> None:
            if bad.any():
                from ptxemu import RaceError

                k = int(np.flatnonzero(bad)[0])
                where = f"which line {self.line[g[k]]} wrote" if self.line[g[k]] else "which nothing wrote before"
                raise RaceError(f"global memory race: {what}, {where}", int(threads[k]))

        writer = self.writer[g]
        other_program = writer // machine.per != program
        writers_warp = writer % machine.per // 32
        unordered = self.written[g] > clocks[warp, writers_warp]
        same_warp = (writers_warp == here) & (self.written[g] == now) & (writer != thread)
        raced = (writer >= 0) & (other_program | unordered | same_warp)
        if operation in ATOMICS:
            raced &= ~self.atomic[g]
        check(raced, f"{operation} without a barrier after a write")
        reader = self.reader[g]
        other_reader = (reader >= 0) & (reader // machine.per != program)
        if operation in READS:
            self.shared[g] |= other_reader
            self.read[g[other_reader]] = 0
            self.reader[g] = thread
            self.read[g, here] = now
            return
        assert operation in WRITES + ATOMICS, operation
        later = (self.read[g] > clocks[warp]).any(1)
        check(self.shared[g] | other_reader | later, f"{operation} without a barrier after a read")
        self.writer[g] = thread
        self.written[g] = now
        self.line[g] = site.line
        self.atomic[g] = operation in ATOMICS
        if operation in WRITES:
            check(self.writer[g] != thread, "several threads at once")


@contextmanager
def watching() -> Iterator[list[Watcher]]:
    """The launches with ``profile=True``, each by a Watcher; those that touched no global memory are left out."""
    from ptxemu import machine

    watchers: list[Watcher] = []

    class Profiler(machine.Profiler):
        watcher: Watcher | None = None

        def globl(self, site: Any, addresses: np.ndarray, size: int, active: np.ndarray | None) -> None:
            super().globl(site, addresses, size, active)
            if self.watcher is None:
                self.watcher = Watcher(self.M)
                watchers.append(self.watcher)
            self.watcher.access(site, addresses, size, active)

    before, machine.Profiler = machine.Profiler, Profiler
    try:
        yield watchers
    finally:
        machine.Profiler = before
