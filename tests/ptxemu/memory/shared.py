"""Shared memory of the programs of a batch: its bounds, which of it is written, which copies are under way."""

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import OutOfBoundsError, PendingCopyError, UninitializedReadError
from ..types import Active
from .addresses import LOG2, Access, Bytes, check_alignment, thread_of
from .shared_races import SharedRaces, Touch

if TYPE_CHECKING:
    from ..machine import Machine


class State(IntEnum):
    """Of a granule: as many bytes as the narrowest access touches."""

    NEVER_WRITTEN = 0
    WRITTEN = 1
    PENDING = 2  # destination of a cp.async that no wait has completed


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
        if self.options.race != "off" and machine.cta_warps > 1:
            self.races = SharedRaces(self, len(self.state))
        self.copies: list[Copies] = []

    def start_batch(self) -> None:
        self.state[:] = State.NEVER_WRITTEN
        self.data[:] = 0
        self.copies = []
        if self.races is not None:
            self.races.start_batch()

    def offsets(self, access: Access, addresses: np.ndarray, size: int, active: Active, what: str) -> np.ndarray:
        check_alignment(addresses, size, active, f"shared {what}")
        if int(addresses.max()) + size > self.size or int(addresses.min()) < 0:
            k = int(np.flatnonzero((addresses + size > self.size) | (addresses < 0))[0])
            raise OutOfBoundsError(
                f"{size}-byte shared {what} at {int(addresses[k]):#x} out of bounds: shared memory has "
                f"{self.size} bytes ({self.machine.layout.shared_text()})",
                thread_of(active, k),
            )
        return addresses + (self.starts if active is None else self.starts[active])

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
        if self.options.uninit == "off" and not self.copies:
            return
        count = max(1, size >> self.shift)
        if count <= 8:
            written = self.states.views[count][offsets >> (self.shift + LOG2[count])] == ALL_WRITTEN[count]
        else:
            written = self.states.vectors[8, count // 8][offsets >> (self.shift + LOG2[count])] == ALL_WRITTEN[8]
        if not written.all():
            self.report_state(access, offsets, size, active, "read")

    def check_not_pending(self, access: Access, offsets: np.ndarray, size: int, active: Active) -> None:
        if not self.copies or self.options.pending == "off":
            return
        if (self.state[self.granules(offsets, size)] == State.PENDING).any():
            self.report_state(access, offsets, size, active, "write")

    def report_state(self, access: Access, offsets: np.ndarray, size: int, active: Active, what: str) -> None:
        states = self.state[self.granules(offsets, size)]
        pending = (states == State.PENDING).any(1)
        error: type[PendingCopyError | UninitializedReadError]
        if pending.any():
            error, mode, wrong = PendingCopyError, self.options.pending, pending
            touched = "the destination of a cp.async that no wait has completed"
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
