"""mbarrier objects: arrivals, bytes that copies bring, phases, and who waits for them.

PTX ISA, "mbarrier": a phase ends when no arrival is pending and no byte. Copies end as late as they may, when somebody
waits for them, so that whoever doesn't finds nothing.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import BarrierError, RaceError
from ..memory.clocks import Snapshot
from ..memory.shared import State as Bytes
from ..operands import Inst
from ..types import U32
from .states import State

if TYPE_CHECKING:
    from .machine import Machine
    from .mbarrier_instructions import Wait

MOST = (1 << 20) - 1  # arrivals, and bytes
SIZE = 8


class Copy(NamedTuple):
    """In bulk, under way."""

    granules: np.ndarray
    column: int  # of its agent
    tick: int
    size: int  # bytes
    inst: Inst
    thread: int


class Waiting(NamedTuple):
    threads: np.ndarray
    parity: int
    wait: "Wait"
    place: int  # of the instruction


@dataclass
class MBarrier:
    offset: int  # in the shared memory of the batch
    cta: int
    expected: int  # arrivals
    inst: Inst  # that initialised it
    maker: tuple[int, int]  # column and clock of that
    column: int  # of the agent that copies to it
    phase: int = 0
    pending: int = 0
    bytes: int = 0
    seen: Snapshot | None = None  # by those that arrived in this phase
    released: Snapshot | None = None  # by those of the last one
    arrived: list[tuple[int, int]] = field(default_factory=list)  # of this phase: column and tick of copies
    copies: list[Copy] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)


class MBarriers:
    def __init__(self, machine: "Machine") -> None:
        self.machine = machine

    def start_batch(self) -> None:
        self.by_offset: dict[int, MBarrier] = {}
        self.gave_up = 0  # what had happened when all waits gave up
        self.patience = 3

    def where(self, barrier: MBarrier) -> str:
        return f"the mbarrier at {self.machine.shared.where(barrier.offset)}"

    def fail(self, barrier: MBarrier, what: str, thread: int, inst: Inst) -> None:
        message = f"{self.where(barrier)} (initialised for {barrier.expected} arrivals on PTX line {barrier.inst.line})"
        raise self.machine.located(BarrierError(f"{message}: {what}", thread), inst)

    def init(self, offset: int, count: int, thread: int, inst: Inst) -> None:
        machine = self.machine
        if not 1 <= count <= MOST:
            raise BarrierError(f"mbarrier of {count} arrivals: 1 .. {MOST} are possible", thread)
        if offset in self.by_offset:
            self.fail(self.by_offset[offset], "initialised once more, without mbarrier.inval before", thread, inst)
        cta = int(machine.cta_of[thread])
        if offset // machine.shared.stride != cta:
            raise BarrierError("mbarrier.init of another program's shared memory", thread)
        column = machine.agents.of_mbarrier(cta, len(self.by_offset)) if machine.agents.loads else -1
        place = int(machine.warp_in_cluster[thread])
        maker = (place, int(machine.clocks.seen[machine.warp_of[thread], place]))
        self.by_offset[offset] = MBarrier(offset, cta, count, inst, maker, column, pending=count)
        self.cover(offset, Bytes.MBARRIER)
        machine.shared.watched = True

    def inval(self, offset: int, thread: int, inst: Inst) -> None:
        barrier = self.get(offset, thread, inst)
        self.deliver(barrier)
        if barrier.waiting or barrier.copies:
            self.fail(barrier, "invalidated while somebody waits for it", thread, inst)
        del self.by_offset[offset]
        self.cover(offset, Bytes.NEVER_WRITTEN)

    def cover(self, offset: int, state: Bytes) -> None:
        shared = self.machine.shared
        shared.state[shared.granules(np.array([offset]), SIZE)] = state

    def get(self, offset: int, threads: int | np.ndarray, inst: Inst) -> MBarrier:
        """What is there, if the threads may know of it."""
        machine = self.machine
        barrier = self.by_offset.get(offset)
        warps = np.unique(machine.warp_of[threads])
        thread = int(np.ravel(threads)[0])
        if barrier is None:
            where = machine.shared.where(offset)
            raise machine.located(
                BarrierError(f"there is no mbarrier at {where}: nothing initialised it", thread), inst
            )
        place, clock = barrier.maker
        unaware = warps[machine.clocks.seen[warps, place] < clock]
        if len(unaware):
            message = f"{self.where(barrier)} is used without a barrier after its mbarrier.init"
            machine.report(machine.options.race, RaceError(message, 32 * int(unaware[0])), inst)
        return barrier

    # Arrivals

    def arrive(
        self, barrier: MBarrier, threads: np.ndarray, counts: np.ndarray, inst: Inst, *, drop: bool, releases: bool
    ) -> np.ndarray:
        """Gives the state before each."""
        machine, total = self.machine, int(counts.sum())
        before = barrier.pending - np.concatenate([[0], np.cumsum(counts)[:-1]])
        states = self.state_of(barrier.phase, before)
        if total > barrier.pending:
            self.deliver(barrier)  # which may end the phase
            if total > barrier.pending:
                what = f"{total} arrivals in a phase that waits for {barrier.pending}"
                if barrier.pending == 0:
                    what += f" and for {barrier.bytes} bytes"
                self.fail(barrier, what, int(threads[0]), inst)
            states = self.state_of(barrier.phase, before)
        if "noComplete" in inst.modifiers and total == barrier.pending:
            self.fail(barrier, "an arrival with .noComplete ends its phase", int(threads[0]), inst)
        if releases:
            seen = machine.clocks.leave(np.unique(machine.warp_of[threads]))
            if barrier.seen is not None:
                seen = [np.maximum(a, b) for a, b in zip(seen, barrier.seen, strict=True)]
            barrier.seen = seen
        barrier.pending -= total
        if drop:
            barrier.expected -= total
        self.end_phase(barrier)
        return states

    @staticmethod
    def state_of(phase: int, pending: np.ndarray) -> np.ndarray:
        return (pending.astype(np.uint64) << np.uint64(32)) | np.uint64(phase & 0xFFFFFFFF)

    def expect(self, barrier: MBarrier, size: int, thread: int, inst: Inst) -> None:
        barrier.bytes += size
        if abs(barrier.bytes) > MOST:
            self.fail(barrier, f"{barrier.bytes} bytes are pending, more than {MOST}", thread, inst)

    def complete(self, barrier: MBarrier, size: int, thread: int, inst: Inst) -> None:
        self.expect(barrier, -size, thread, inst)
        self.end_phase(barrier)

    def end_phase(self, barrier: MBarrier) -> None:
        if barrier.pending or barrier.bytes:
            return
        barrier.phase += 1
        barrier.pending = barrier.expected
        if barrier.arrived:  # what the copies brought is known to who waits
            tables = self.machine.clocks.tables
            released = barrier.seen or [np.zeros(table.shape[1], U32) for table in tables]
            for column, tick in barrier.arrived:
                released[0][column] = max(int(released[0][column]), tick)
            barrier.seen = released
        barrier.released, barrier.seen, barrier.arrived = barrier.seen, None, []
        self.machine.progress += 1
        self.wake(barrier)

    # Copies

    def start_copy(self, barrier: MBarrier, copy: Copy) -> None:
        barrier.copies.append(copy)

    def deliver(self, barrier: MBarrier) -> bool:
        """Ends the copies under way to it; whether there were any."""
        copies, barrier.copies = barrier.copies, []
        for copy in copies:
            self.machine.shared.arrived(copy.granules)
            barrier.arrived.append((copy.column, copy.tick))
            self.complete(barrier, copy.size, copy.thread, copy.inst)
        return bool(copies)

    def deliver_to_waiting(self) -> bool:
        """Whether anybody goes on."""
        before = self.machine.progress
        for barrier in list(self.by_offset.values()):
            if barrier.waiting:
                self.deliver(barrier)
        return self.machine.progress > before

    # Waits

    def has_ended(self, barrier: MBarrier, parity: int) -> bool:
        """The phase of this parity: the current one has the other."""
        return (barrier.phase & 1) != parity

    def wait(self, barrier: MBarrier, threads: np.ndarray, parity: int, wait: "Wait", place: int) -> None:
        self.machine.state[threads] = State.AWAITS_PHASE
        self.machine.pc[threads] = place
        barrier.waiting.append(Waiting(threads, parity, wait, place))

    def wake(self, barrier: MBarrier) -> None:
        waiting, barrier.waiting = barrier.waiting, []
        for one in waiting:
            if self.has_ended(barrier, one.parity):
                self.pass_by(barrier, one.threads, one.wait)
                self.resume(one, True)
            else:
                barrier.waiting.append(one)

    def pass_by(self, barrier: MBarrier, threads: np.ndarray, wait: "Wait") -> None:
        """They know what was done before the phase ended."""
        if wait.acquires and barrier.released is not None:
            self.machine.clocks.receive(np.unique(self.machine.warp_of[threads]), barrier.released)

    def resume(self, one: Waiting, ended: bool) -> None:
        machine = self.machine
        mask = np.zeros(machine.threads, bool)
        mask[one.threads] = True
        one.wait.store(np.full(machine.threads, ended), mask)
        machine.state[one.threads] = State.RUNNING
        machine.pc[one.threads] = one.place + 1

    def give_up(self) -> bool:
        """A wait may end without success; whether any did. Those that try again and again without anything having
        happened wait for ever."""
        waiting = [barrier for barrier in self.by_offset.values() if barrier.waiting]
        self.patience = 3 if self.machine.progress != self.gave_up else self.patience - 1
        self.gave_up = self.machine.progress
        if not waiting or self.patience <= 0:
            return False
        for barrier in waiting:
            ones, barrier.waiting = barrier.waiting, []
            for one in ones:
                self.resume(one, False)
        return True

    def waits(self) -> list[str]:
        """Who waits for what, in words."""
        found = []
        for barrier in self.by_offset.values():
            for one in barrier.waiting:
                line = self.machine.insts[one.place].line
                lacks = [f"{barrier.pending} of {barrier.expected} arrivals"] if barrier.pending else []
                lacks += [f"{barrier.bytes} bytes"] if barrier.bytes else []
                count, where = len(one.threads), self.where(barrier)
                lack = " and ".join(lacks)
                found.append(f"{count} threads (PTX line {line}) at {where}, whose phase {barrier.phase} lacks {lack}")
        return found
