"""bar and barrier: named, counted, with arrivals and with reductions."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..builder import builds
from ..errors import DivergenceError, EmuError
from ..memory.clocks import Snapshot
from ..operands import Inst
from ..types import U32, Mask
from .cluster_barriers import cluster_barrier
from .control import Jump
from .states import State

if TYPE_CHECKING:
    from .machine import Machine


class Arrival(NamedTuple):
    """Of warps that don't wait."""

    warps: np.ndarray
    seen: Snapshot


class Reduction(NamedTuple):
    """What a bar.red gives to those that waited at it."""

    operation: str
    store: Callable[[np.ndarray, Mask], None]


class Barriers:
    """Where the threads of the batch wait."""

    def __init__(self, machine: "Machine") -> None:
        self.machine = machine
        self.reductions: dict[int, Reduction] = {}  # by the instruction

    def start_batch(self) -> None:
        threads = self.machine.threads
        self.number = np.zeros(threads, np.int64)  # of the barrier at which a thread waits
        self.count = np.full(threads, -1)  # threads that it wants; -1: all of the program
        self.aligned = np.zeros(threads, bool)  # all lanes of a warp must wait at the same instruction
        self.predicate = np.zeros(threads, bool)
        self.arrivals: dict[tuple[int, int], list[Arrival]] = {}  # by program and number

    def wait(self, threads: np.ndarray, numbers: np.ndarray, counts: np.ndarray, aligned: bool) -> None:
        machine = self.machine
        machine.state[threads] = State.AT_BARRIER
        self.number[threads], self.count[threads], self.aligned[threads] = numbers, counts, aligned
        self.complete_any(threads, numbers)

    def complete_any(self, threads: np.ndarray, numbers: np.ndarray) -> None:
        pairs = zip(self.machine.cta_of[threads].tolist(), numbers.tolist(), strict=True)
        for program, number in dict.fromkeys(pairs):
            self.complete(program, number)

    def arrive(self, threads: np.ndarray, numbers: np.ndarray, inst: Inst) -> None:
        machine = self.machine
        pairs = list(zip(machine.cta_of[threads].tolist(), numbers.tolist(), strict=True))
        for program, number in dict.fromkeys(pairs):
            here = threads[[pair == (program, number) for pair in pairs]]
            warps = np.unique(machine.warp_of[here])
            arrivals = self.arrivals.setdefault((program, number), [])
            for before in arrivals:
                twice = np.intersect1d(warps, before.warps)
                if len(twice):
                    warp = int(twice[0])
                    message = f"warp {warp % machine.cta_warps} arrives twice at barrier {number} before it completes"
                    machine.report(machine.options.divergence, DivergenceError(message, warp * 32), inst)
            arrivals.append(Arrival(warps, machine.clocks.leave(warps)))
            self.complete(program, number)

    def threads_exit(self, threads: np.ndarray) -> None:
        """Which may be all that a barrier was waiting for."""
        machine = self.machine
        waiting = machine.state == State.AT_BARRIER
        for program in np.unique(machine.cta_of[threads]):
            for number in np.unique(self.number[waiting & (machine.cta_of == program)]):
                self.complete(int(program), int(number))

    def complete(self, program: int, number: int) -> None:
        """Lets those who wait go on if all that it wants are there."""
        machine = self.machine
        of_program = slice(program * machine.cta_threads, (program + 1) * machine.cta_threads)
        state = machine.state[of_program]
        waits = (state == State.AT_BARRIER) & (self.number[of_program] == number)
        if not waits.any():
            return
        threads = np.flatnonzero(waits) + of_program.start
        arrivals = self.arrivals.get((program, number), [])
        # a warp is there when all its live lanes wait
        by_warp, alive = waits.reshape(-1, 32), (state != State.EXITED).reshape(-1, 32)
        there = (by_warp == alive).all(1) & alive.any(1)
        wanted = int(self.count[threads].max())
        if wanted < 0 and not arrivals:
            if not there[alive.any(1)].all():
                return
        else:
            wanted = wanted if wanted >= 0 else machine.cta_threads
            if wanted % 32:
                message = f"barrier {number}: thread count {wanted} is no multiple of the warp size"
                raise DivergenceError(message, int(threads[0]))
            present = 32 * (int(there.sum()) + sum(len(arrival.warps) for arrival in arrivals))
            if present < wanted:
                return
            if present > wanted:
                message = f"barrier {number} with a count of {wanted} is reached by {present} threads at once"
                error = DivergenceError(message, int(threads[0]))
                machine.report(machine.options.divergence, error, machine.insts[int(machine.pc[threads[0]])])
            threads = threads[there[(threads - of_program.start) // 32]]
        self.check_alignment(threads)
        warps = np.flatnonzero(there) + program * machine.cta_warps
        for arrival in arrivals:
            machine.clocks.receive(warps, arrival.seen)
        machine.clocks.join(warps)
        self.arrivals.pop((program, number), None)
        self.reduce(threads)
        machine.state[threads] = State.RUNNING
        machine.pc[threads] += 1
        machine.progress += 1

    def check_alignment(self, threads: np.ndarray) -> None:
        machine = self.machine
        pc, warp = machine.pc[threads], machine.warp_of[threads]
        first = pc[np.searchsorted(warp, warp)]  # threads are in order
        elsewhere = self.aligned[threads] & (pc != first)
        if elsewhere.any():
            k = int(np.flatnonzero(elsewhere)[0])
            one, other = (machine.insts[int(x[k])] for x in (first, pc))
            message = (
                f"divergent barrier: lanes of one warp wait at different bar instructions (PTX lines {one.line} and "
                f"{other.line})"
            )
            machine.report(machine.options.divergence, DivergenceError(message, int(threads[k])), one)

    def reduce(self, threads: np.ndarray) -> None:
        machine = self.machine
        for pc in np.unique(machine.pc[threads]).tolist():
            if pc not in self.reductions:
                continue
            operation, store = self.reductions[pc]
            votes = self.predicate[threads]
            result = {"popc": votes.sum, "and": votes.all, "or": votes.any}[operation]()
            mask = np.zeros(machine.threads, bool)
            mask[threads[machine.pc[threads] == pc]] = True
            store(np.full(machine.threads, result, U32 if operation == "popc" else bool), mask)


@builds("bar", "barrier")
def barrier(machine: "Machine", inst: Inst) -> Jump:
    if inst.modifiers[0] == "cluster":
        return cluster_barrier(machine, inst)
    kind = inst.one_of("sync", "arrive", "red") or "sync"
    aligned = inst.op == "bar" or "aligned" in inst.modifiers
    args = list(inst.args)
    reduction = get_predicate = None
    if kind == "red":
        operation = inst.one_of("popc", "and", "or") or "or"
        store = machine.setter(args.pop(0), "u32" if operation == "popc" else "pred")
        reduction, get_predicate = Reduction(operation, store), machine.array(args.pop(), "pred")
    get_number = machine.bits(args[0], 32)
    get_count = machine.bits(args[1], 32) if len(args) > 1 else None
    is_plain = kind == "sync" and get_count is None and inst.guard is None
    barriers = machine.barriers

    def step(pc: int, mask: Mask) -> int:
        number = np.asarray(get_number())
        if is_plain and number.ndim == 0 and not barriers.arrivals:  # the common case: whole programs come
            programs = machine.whole_programs(mask)
            if programs is not None:
                machine.clocks.join_programs(programs)
                return pc + 1
        running = machine.fall_through_where_guarded(inst, pc, mask)
        threads = np.flatnonzero(running)
        if not len(threads):
            return -1
        numbers = np.broadcast_to(number, machine.threads)[threads].astype(np.int64)
        if (numbers > 15).any():
            raise EmuError(f"barrier {int(numbers.max())}: only 0 .. 15 exist", int(threads[0]))
        if kind == "arrive":
            machine.pc[threads] = pc + 1
            barriers.arrive(threads, numbers, inst)
            return -1
        counts = np.full(len(threads), -1)
        if get_count is not None:
            counts = np.broadcast_to(get_count(), machine.threads)[threads].astype(np.int64)
        machine.pc[threads] = pc
        if reduction is not None and get_predicate is not None:
            barriers.reductions[pc] = reduction
            barriers.predicate[threads] = get_predicate()[threads]
        barriers.wait(threads, numbers, counts, aligned)
        return -1

    return step
