"""Races in shared memory, to the byte where accesses are as narrow, by the vector clocks of the warps and of what
works for them.

The threads of a warp count as ordered.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import ProxyError, RaceError
from ..types import S32, U32, Active
from .addresses import Access, thread_of

if TYPE_CHECKING:
    from .shared import SharedMemory


class Touch:
    """An access, by the granules that its threads touch."""

    def __init__(self, memory: "SharedMemory", access: Access, offsets: np.ndarray, size: int, active: Active) -> None:
        self.memory, self.access, self.offsets, self.size, self.active = memory, access, offsets, size, active
        self.per_access = count = max(1, size >> memory.shift)
        self.granules = offsets >> memory.shift
        if count > 1:
            self.granules = (self.granules[:, None] + np.arange(count)).reshape(-1)
        assert memory.races is not None
        self.warp, self.here, self.row = memory.races.warps_of(active, count)
        clocks = memory.machine.clocks
        self.seen, self.proxied = clocks.flat, clocks.proxied  # in these, row + column is what they know
        self.clock = self.seen[self.row + self.here]

    def by_agent(self, columns: np.ndarray, ticks: np.ndarray) -> "Touch":
        """The same by agents that the threads have started: what these know, but in columns of the agents."""
        self.here, self.clock = (np.repeat(x, self.per_access) for x in (columns, ticks.astype(U32)))
        return self

    def by_all_of(self, warps: np.ndarray, which: np.ndarray) -> "Touch":
        """What all warps of a group know, of ``warps`` [groups, 4]; ``which`` group each access is of."""
        clocks = self.memory.machine.clocks
        assert clocks.proxied is not None
        self.seen, self.proxied = clocks.seen[warps].min(1).reshape(-1), clocks.proxied[warps].min(1)
        self.row = np.repeat(which * clocks.columns, self.per_access)
        return self


class Unordered(NamedTuple):
    """Writes over what another warp wrote: no race if they write the same."""

    granules: np.ndarray  # which, as booleans
    accesses: np.ndarray
    places: np.ndarray  # their bytes
    before: np.ndarray


class SharedRaces:
    def __init__(self, memory: "SharedMemory", count: int) -> None:
        self.memory, self.machine = memory, memory.machine
        self.warps = self.machine.clocks.columns
        # Of a last write: clock << bits | warp
        self.bits = U32(max(5, (self.warps - 1).bit_length()))
        self.mask = U32((1 << int(self.bits)) - 1)
        self.benign = memory.options.benign_same_value
        self.writer = np.zeros(count, U32)
        self.write_line = np.zeros(count, S32)
        self.reads = np.zeros((count, self.warps), U32)  # clock of the last read by each warp
        self.flat_reads = self.reads.reshape(-1)
        self.read_line = np.zeros(count, S32)
        self.atomics: np.ndarray | None = None  # like reads, once there are any
        self.warps_of_all: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def warps_of(self, active: Active, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For ``count`` granules of each thread: its warp of the batch, of the program, and its row of clocks."""
        if active is None and count in self.warps_of_all:
            return self.warps_of_all[count]
        warp, here = self.machine.warp_of, self.machine.warp_in_cluster
        if active is not None:
            warp, here = warp[active], here[active]
        if count > 1:
            warp, here = np.repeat(warp, count), np.repeat(here, count)
        found = (warp, here, warp * self.warps)
        if active is None:
            self.warps_of_all[count] = found
        return found

    def start_batch(self) -> None:
        self.writer[:] = 0
        self.reads[:] = 0
        if self.atomics is not None:
            self.atomics[:] = 0

    def read(self, touch: Touch) -> None:
        self.check_writes(touch, "read after write")
        if self.atomics is not None:
            self.check_clocks(touch, self.atomics, self.write_line, "read after atomic")
        self.flat_reads[touch.granules * self.warps + touch.here] = touch.clock
        self.read_line[touch.granules] = touch.access.line

    def before_write(self, touch: Touch) -> Unordered | None:
        self.check_clocks(touch, self.reads, self.read_line, "write after read")
        if self.atomics is not None:
            self.check_clocks(touch, self.atomics, self.write_line, "write after atomic")
        if not self.benign:
            self.check_writes(touch, "write after write")
            return None
        unordered = self.unordered_writes(touch)
        if unordered is None:
            return None
        accesses = np.unique(np.flatnonzero(unordered) // touch.per_access)
        places = touch.offsets[accesses][:, None] + np.arange(touch.size)
        return Unordered(unordered, accesses, places, self.memory.data[places])

    def after_write(self, touch: Touch, unordered: Unordered | None, columns: list[np.ndarray]) -> None:
        if unordered is not None:
            changed = unordered.accesses[(self.memory.data[unordered.places] != unordered.before).any(1)]
            wrong = unordered.granules & self.of_accesses(touch, changed)
            self.report(touch, wrong, "write after write", self.writer_of(touch), self.write_line)
        mine = (touch.clock << self.bits) | touch.here.astype(U32)
        self.writer[touch.granules] = mine
        self.write_line[touch.granules] = touch.access.line
        lost = self.writer[touch.granules] != mine
        if lost.any():
            self.check_clash(touch, lost, columns)

    def check_clash(self, touch: Touch, lost: np.ndarray, columns: list[np.ndarray]) -> None:
        """Several warps wrote the same granules in one instruction."""
        if self.benign:
            accesses = np.unique(np.flatnonzero(lost) // touch.per_access)
            size = touch.size // len(columns)
            now = self.memory.bytes.load(touch.offsets[accesses], size, len(columns))
            written = [np.broadcast_to(x, len(touch.offsets))[accesses] for x in columns]
            differs = np.any([a != b for a, b in zip(now, written, strict=True)], axis=0)
            lost &= self.of_accesses(touch, accesses[differs])
        self.report(touch, lost, "write/write in one instruction", self.writer_of(touch), self.write_line)

    def atomic(self, touch: Touch) -> None:
        self.check_clocks(touch, self.reads, self.read_line, "atomic after read")
        self.check_writes(touch, "atomic after write")
        if self.atomics is None:
            self.atomics = np.zeros_like(self.reads)
        self.atomics[touch.granules, touch.here] = touch.clock
        self.write_line[touch.granules] = touch.access.line

    def copied(self, granules: np.ndarray, threads: np.ndarray, lines: np.ndarray) -> None:
        """A wait makes a copy a write of now, by the thread that issued it. granules [copies, of each]"""
        machine = self.machine
        here = machine.warp_in_cluster[threads]
        clock = machine.clocks.seen[machine.warp_of[threads], here]
        self.writer[granules] = ((clock << self.bits) | here.astype(U32))[:, None]
        self.write_line[granules] = lines[:, None]

    # Checks

    def writer_of(self, touch: Touch) -> np.ndarray:
        return self.writer[touch.granules] & self.mask

    def unordered_writes(self, touch: Touch) -> np.ndarray | None:
        """Granules that a warp wrote of which this one has not seen it; None if there is none."""
        last = self.writer[touch.granules]
        if int(last.max()) >> int(self.bits) <= self.machine.clocks.least():
            return None
        seen = touch.seen[touch.row + (last & self.mask)]
        unordered = (last >> self.bits) > seen
        return unordered if unordered.any() else None

    def check_writes(self, touch: Touch, what: str) -> None:
        unordered = self.unordered_writes(touch)
        if unordered is not None:
            self.report(touch, unordered, what, self.writer_of(touch), self.write_line)

    def check_proxies(self, touch: Touch) -> None:
        """Of what the async proxy reads: a fence between the proxies must lie behind every write of the other one."""
        clocks = self.machine.clocks
        last = self.writer[touch.granules]
        column = last & self.mask
        assert touch.proxied is not None
        unfenced = (last >> self.bits) > touch.proxied.reshape(-1)[touch.row + column]
        unfenced &= column < clocks.width
        if not unfenced.any():
            return
        k = int(np.flatnonzero(unfenced)[0])
        place = int(touch.granules[k])
        message = (
            f"{touch.access.inst.op} reads {self.memory.where(place << self.memory.shift)} by the async proxy, which "
            f"{self.name(int(column[k]))} wrote on PTX line {self.write_line[place]} with no fence.proxy.async between"
        )
        error = ProxyError(message, thread_of(touch.active, k // touch.per_access))
        self.machine.report(self.machine.options.proxy, error, touch.access.inst)

    def name(self, column: int) -> str:
        """Of a warp or an agent."""
        machine = self.machine
        if column >= machine.clocks.width:
            return machine.agents.name(column)
        block = f" of block {column // machine.cta_warps} of the cluster" if machine.cluster_size > 1 else ""
        return f"warp {column % machine.cta_warps}{block}"

    def check_clocks(self, touch: Touch, clocks: np.ndarray, lines: np.ndarray, what: str) -> None:
        before = clocks[touch.granules]
        if int(before.max()) <= self.machine.clocks.least():
            return
        unordered = before > self.machine.clocks.seen[touch.warp]
        if unordered.any():
            self.report(touch, unordered.any(1), what, unordered.argmax(1), lines)

    def of_accesses(self, touch: Touch, accesses: np.ndarray) -> np.ndarray:
        chosen = np.zeros(len(touch.offsets), bool)
        chosen[accesses] = True
        return np.repeat(chosen, touch.per_access)

    def report(self, touch: Touch, wrong: np.ndarray, what: str, other: np.ndarray, lines: np.ndarray) -> None:
        if not wrong.any():
            return
        k = int(np.flatnonzero(wrong)[0])
        place = int(touch.granules[k])
        here, there = self.name(int(touch.here[k])), self.name(int(other[k]))
        message = (
            f"shared memory race ({what}) at {self.memory.where(place << self.memory.shift)}: {here} and {there} "
            f"(whose access is on PTX line {lines[place]}) with no barrier between"
        )
        error = RaceError(message, thread_of(touch.active, k // touch.per_access))
        self.machine.report(self.machine.options.race, error, touch.access.inst)
