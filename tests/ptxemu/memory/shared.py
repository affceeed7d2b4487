"""Shared memory of the programs of a batch: its bounds, which of it is written, which copies are under way. Programs of
a cluster reach each other's."""

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import BarrierError, ClusterError, OutOfBoundsError, PendingCopyError, UninitializedReadError
from ..types import Active
from .addresses import LOG2, RANK, Access, Bytes, check_alignment, thread_of
from .shared_races import SharedRaces, Touch

if TYPE_CHECKING:
    from ..machine import Machine


class State(IntEnum):
    """Of a granule: as many bytes as the narrowest access touches."""

    NEVER_WRITTEN = 0
    WRITTEN = 1
    PENDING = 2  # destination of a cp.async that no wait has completed
    IN_FLIGHT = 3  # destination of a copy in bulk whose mbarrier has not completed
    MBARRIER = 4


ALL_WRITTEN = {n: np.frombuffer(bytes([State.WRITTEN] * n), f"u{n}")[0] for n in (1, 2, 4, 8)}


class Copies(NamedTuple):
    """By cp.async, under way: an element for each thread that issued one."""

    threads: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray  # bytes
    groups: np.ndarray
    lines: np.ndarray

    def some(self, which: np.ndarray) -> "Copies":
        return Copies(*(x[which] for x in self))


class SharedMemory:
    def __init__(self, machine: "Machine", size: int, granule: int) -> None:
        self.machine = machine
        self.options = machine.options
        self.size = size
        self.stride = (size + 127) // 128 * 128  # of a program
        self.bytes = Bytes(machine.ctas * self.stride + 128)
        self.data = self.bytes.data
        self.shift = LOG2[granule]
        self.states = Bytes(len(self.data) >> self.shift)
        self.state = self.states.data
        self.starts = machine.cta_of * self.stride
        self.races: SharedRaces | None = None
        self.watched = False  # whether anything is not written and may not be touched either, but for cp.async
        if self.options.race != "off" and machine.clocks.columns > 1:
            self.races = SharedRaces(self, len(self.state))
        self.copies: list[Copies] = []

    def start_batch(self) -> None:
        self.state[:] = State.NEVER_WRITTEN
        self.data[:] = 0
        self.copies = []
        self.watched = False
        if self.races is not None:
            self.races.start_batch()

    def offsets(self, access: Access, addresses: np.ndarray, size: int, active: Active, what: str) -> np.ndarray:
        check_alignment(addresses, size, active, f"shared {what}")
        last = int(addresses.max())
        if last >= RANK and access.of_cluster:
            return self.offsets_in_cluster(access, addresses, size, active, what)
        if last + size > self.size or int(addresses.min()) < 0:
            k = int(np.flatnonzero((addresses + size > self.size) | (addresses < 0))[0])
            raise OutOfBoundsError(
                f"{size}-byte shared {what} at {int(addresses[k]):#x} out of bounds: shared memory has "
                f"{self.size} bytes ({self.machine.layout.shared_text()})",
                thread_of(active, k),
            )
        return addresses + (self.starts if active is None else self.starts[active])

    def offsets_in_cluster(
        self, access: Access, addresses: np.ndarray, size: int, active: Active, what: str
    ) -> np.ndarray:
        """Of which some are of the programs that their high bits name, from 1."""
        machine = self.machine
        threads = machine.all_threads if active is None else active
        rank, within = addresses // RANK - 1, addresses % RANK
        outside = (rank >= machine.cluster_size) | (within + size > self.size)
        if outside.any():
            k = int(np.flatnonzero(outside)[0])
            message = f"{size}-byte shared {what} at {int(within[k]):#x} of block {int(rank[k])} of the cluster"
            raise OutOfBoundsError(f"{message}, which has {self.size} bytes", int(threads[k]))
        own = machine.cta_of[threads]
        program = np.where(rank < 0, own, own // machine.cluster_size * machine.cluster_size + rank)
        gone = ~machine.alive.reshape(machine.ctas, -1).any(1)[program]
        if gone.any():
            k = int(np.flatnonzero(gone)[0])
            message = f"shared {what} at {int(within[k]):#x} of block {int(rank[k])} of the cluster, which has exited"
            raise ClusterError(message, int(threads[k]))
        return within + program * self.stride

    def granules(self, offsets: np.ndarray, size: int) -> np.ndarray:
        """[accesses, granules of each]"""
        return (offsets >> self.shift)[:, None] + np.arange(max(1, size >> self.shift))

    def where(self, offset: int) -> str:
        address = offset % self.stride
        return f"{address:#x} ({self.machine.layout.shared_name(address)})"

    # Checks

    def check_read(self, access: Access, offsets: np.ndarray, size: int, active: Active) -> None:
        self.check_written(access, offsets, size, active)
        if self.races is not None:
            self.races.read(Touch(self, access, offsets, size, active))

    def check_written(self, access: Access, offsets: np.ndarray, size: int, active: Active) -> None:
        if self.options.uninit == "off" and not (self.copies or self.watched):
            return
        count = max(1, size >> self.shift)
        if count <= 8:
            written = self.states.views[count][offsets >> (self.shift + LOG2[count])] == ALL_WRITTEN[count]
        else:
            written = self.states.vectors[8, count // 8][offsets >> (self.shift + LOG2[count])] == ALL_WRITTEN[8]
        if not written.all():
            self.report_state(access, offsets, size, active, "read")

    def check_not_pending(self, access: Access, offsets: np.ndarray, size: int, active: Active) -> None:
        if not (self.copies or self.watched) or self.options.pending == "off":
            return
        if (self.state[self.granules(offsets, size)] >= State.PENDING).any():
            self.report_state(access, offsets, size, active, "write")

    def report_state(self, access: Access, offsets: np.ndarray, size: int, active: Active, what: str) -> None:
        states = self.state[self.granules(offsets, size)]
        worst = int(states.max())
        error: type[PendingCopyError | UninitializedReadError | BarrierError]
        if worst == State.MBARRIER:
            error, mode, wrong = BarrierError, self.options.pending, (states == worst).any(1)
            touched = "an mbarrier"
        elif worst >= State.PENDING:
            error, mode, wrong = PendingCopyError, self.options.pending, (states == worst).any(1)
            touched = "the destination of a cp.async that no wait has completed"
            if worst == State.IN_FLIGHT:
                touched = "the destination of a copy in bulk whose mbarrier has not completed"
        else:
            error, mode, wrong = UninitializedReadError, self.options.uninit, (states == State.NEVER_WRITTEN).any(1)
            touched = "shared memory that was never written"
        k = int(np.flatnonzero(wrong)[0])
        message = f"{size}-byte shared {what} at {self.where(int(offsets[k]))} touches {touched}"
        self.machine.report(mode, error(message, thread_of(active, k)), access.inst)

    def mark_written(self, offsets: np.ndarray, size: int) -> None:
        count = max(1, size >> self.shift)
        if count <= 8:
            self.states.views[count][offsets >> (self.shift + LOG2[count])] = ALL_WRITTEN[count]
        else:
            self.states.vectors[8, count // 8][offsets >> (self.shift + LOG2[count])] = ALL_WRITTEN[8]

    # Accesses

    def read(self, access: Access, addresses: np.ndarray, size: int, count: int, active: Active) -> list[np.ndarray]:
        offsets = self.offsets(access, addresses, size * count, active, "read")
        self.machine.profiler.shared(access, addresses, size * count, active)
        self.check_read(access, offsets, size * count, active)
        return self.bytes.load(offsets, size, count)

    def write(
        self, access: Access, addresses: np.ndarray, size: int, columns: list[np.ndarray], active: Active
    ) -> None:
        offsets = self.offsets(access, addresses, size * len(columns), active, "write")
        self.machine.profiler.shared(access, addresses, size * len(columns), active)
        self.write_at(access, offsets, size, columns, active)

    def write_at(
        self, access: Access, offsets: np.ndarray, size: int, columns: list[np.ndarray], active: Active
    ) -> None:
        total = size * len(columns)
        self.check_not_pending(access, offsets, total, active)
        if self.races is None:
            self.bytes.store(offsets, size, columns)
        else:
            touch = Touch(self, access, offsets, total, active)
            unordered = self.races.before_write(touch)
            self.bytes.store(offsets, size, columns)
            self.races.after_write(touch, unordered, columns)
        self.mark_written(offsets, total)

    def check_atomic(self, access: Access, offsets: np.ndarray, size: int, active: Active) -> None:
        """It reads what was there, so that must be defined."""
        if self.options.uninit != "off":
            self.check_written(access, offsets, size, active)
        self.check_not_pending(access, offsets, size, active)
        if self.races is not None:
            self.races.atomic(Touch(self, access, offsets, size, active))
        self.mark_written(offsets, size)

    # cp.async

    def start_copies(
        self, access: Access, offsets: np.ndarray, rows: np.ndarray, active: Active, groups: np.ndarray
    ) -> None:
        """``rows`` [threads, words]; ``groups``: to which group of its thread each copy belongs."""
        word = rows.dtype.itemsize
        size = word * rows.shape[1]
        self.write_at(access, offsets, word, list(np.ascontiguousarray(rows.T)), active)
        self.state[self.granules(offsets, size)] = State.PENDING
        count = len(offsets)
        threads = self.machine.all_threads if active is None else active
        self.copies.append(Copies(threads, offsets, np.full(count, size), groups, np.full(count, access.line)))

    def wait_for_copies(self, until: np.ndarray) -> None:
        """Those of thread t in groups below until[t] are complete."""
        if len(self.copies) > 1:
            self.copies = [Copies(*(np.concatenate(x) for x in zip(*self.copies, strict=True)))]
        if not self.copies:
            return
        copies = self.copies[0]
        done = copies.groups < until[copies.threads]
        for size in np.unique(copies.sizes[done]):
            complete = copies.some(done & (copies.sizes == size))
            granules = self.granules(complete.offsets, int(size))
            self.state[granules] = State.WRITTEN
            if self.races is not None:
                self.races.copied(granules, complete.threads, complete.lines)
        self.copies = [] if done.all() else [copies.some(~done)]

    # Agents (agents.py): the threads ``active`` have started them, column and tick are theirs

    def read_by_agent(
        self,
        access: Access,
        offsets: np.ndarray,
        size: int,
        active: Active,
        columns: np.ndarray,
        ticks: np.ndarray,
        groups: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """Checks that it may read; what it reads is under way until its tick is waited for. ``groups``: of warps that
        have started it together, and which of them did."""
        self.check_written(access, offsets, size, active)
        if self.races is not None:
            touch = Touch(self, access, offsets, size, active).by_agent(columns, ticks)
            if groups is not None:
                touch = touch.by_all_of(*groups)
            self.races.read(touch)
            if self.options.proxy != "off":
                self.races.check_proxies(touch)

    def write_by_agent(
        self,
        access: Access,
        offsets: np.ndarray,
        rows: np.ndarray,
        active: Active,
        columns: np.ndarray,
        ticks: np.ndarray,
    ) -> np.ndarray:
        """``rows`` [accesses, words]. Gives the granules, which are in flight."""
        word = rows.dtype.itemsize
        size = word * rows.shape[1]
        values = list(np.ascontiguousarray(rows.T))
        self.check_not_pending(access, offsets, size, active)
        if self.races is None:
            self.bytes.store(offsets, word, values)
        else:
            touch = Touch(self, access, offsets, size, active).by_agent(columns, ticks)
            unordered = self.races.before_write(touch)
            self.bytes.store(offsets, word, values)
            self.races.after_write(touch, unordered, values)
        granules = self.granules(offsets, size).reshape(-1)
        self.state[granules] = State.IN_FLIGHT
        self.watched = True
        return granules

    def change_by_agent(
        self, access: Access, offsets: np.ndarray, size: int, active: Active, columns: np.ndarray, ticks: np.ndarray
    ) -> None:
        """Checks that it may change what is there, as an atomic."""
        self.check_written(access, offsets, size, active)
        if self.races is not None:
            self.races.atomic(Touch(self, access, offsets, size, active).by_agent(columns, ticks))

    def arrived(self, granules: np.ndarray) -> None:
        """What was in flight to them."""
        flying = granules[self.state[granules] == State.IN_FLIGHT]
        self.state[flying] = State.WRITTEN
