"""mbarrier: init, inval, arrivals, bytes, and waits. test_wait and try_wait may take their time, so here both suspend
the thread until the phase ends."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..builder import builds, unsupported
from ..memory.spaces import shared_offsets_getter
from ..operands import Inst, Mem, Sink
from ..types import U32, U64, Mask, Step
from .control import Jump
from .mbarriers import SIZE

if TYPE_CHECKING:
    from .machine import Machine


@builds("mbarrier")
def mbarrier(machine: "Machine", inst: Inst) -> Step | Jump:
    what = inst.modifiers[0]
    if what in ("init", "inval"):
        return set_up(machine, inst)
    if what in ("arrive", "arrive_drop"):
        return arrive(machine, inst)
    if what in ("expect_tx", "complete_tx"):
        return change_bytes(machine, inst)
    if what in ("test_wait", "try_wait"):
        return wait(machine, inst)
    if what == "pending_count":
        return machine.compute(inst.args[0], "b32", lambda x: (x >> U64(32)).astype(U32), (inst.args[1], "b64"))
    raise unsupported(inst)


def set_up(machine: "Machine", inst: Inst) -> Step:
    get_offsets = shared_offsets_getter(machine, inst.args[0], inst, SIZE, inst.opcode)
    get_counts = machine.array(inst.args[1], "b32") if inst.modifiers[0] == "init" else None

    def step(mask: Mask) -> None:
        threads = np.flatnonzero(machine.running(mask))
        for thread, offset in zip(threads.tolist(), get_offsets(threads).tolist(), strict=True):
            if get_counts is not None:
                machine.mbarriers.init(offset, int(get_counts()[thread]), thread, inst)
            else:
                machine.mbarriers.inval(offset, thread, inst)

    return step


def arrive(machine: "Machine", inst: Inst) -> Step:
    args = list(inst.args)
    target = Sink() if isinstance(args[0], Mem) else args.pop(0)
    get_offsets = shared_offsets_getter(machine, args[0], inst, SIZE, inst.opcode)
    expects = "expect_tx" in inst.modifiers
    get_number = machine.array(args[1], "b32") if len(args) > 1 else None  # of arrivals, or of bytes
    scatter = machine.scatterer(target, "b64")
    drop, releases = inst.modifiers[0] == "arrive_drop", "relaxed" not in inst.modifiers
    barriers = machine.mbarriers

    def step(mask: Mask) -> None:
        threads = np.flatnonzero(machine.running(mask))
        offsets = get_offsets(threads)
        numbers = np.ones(len(threads), np.int64) if get_number is None else get_number()[threads].astype(np.int64)
        states = np.zeros(len(threads), U64)
        for offset in np.unique(offsets).tolist():
            here = offsets == offset
            some = threads[here]
            barrier = barriers.get(offset, some, inst)
            counts = numbers[here]
            if expects:
                barriers.expect(barrier, int(counts.sum()), int(some[0]), inst)
                counts = np.ones_like(counts)
            states[here] = barriers.arrive(barrier, some, counts, inst, drop=drop, releases=releases)
        scatter(states, threads)

    return step


def change_bytes(machine: "Machine", inst: Inst) -> Step:
    get_offsets = shared_offsets_getter(machine, inst.args[0], inst, SIZE, inst.opcode)
    get_sizes = machine.array(inst.args[1], "b32")
    barriers = machine.mbarriers
    change = barriers.expect if inst.modifiers[0] == "expect_tx" else barriers.complete

    def step(mask: Mask) -> None:
        threads = np.flatnonzero(machine.running(mask))
        for thread, offset in zip(threads.tolist(), get_offsets(threads).tolist(), strict=True):
            change(barriers.get(offset, thread, inst), int(get_sizes()[thread]), thread, inst)

    return step


class Wait(NamedTuple):
    store: Callable[[np.ndarray, Mask], None]  # whether the phase has ended
    acquires: bool


def wait(machine: "Machine", inst: Inst) -> Jump:
    target, memory, phase = inst.args[:3]  # and perhaps for how long
    get_offsets = shared_offsets_getter(machine, memory, inst, SIZE, inst.opcode)
    get_phase = machine.array(phase, "b32" if "parity" in inst.modifiers else "b64")
    of_inst = Wait(machine.setter(target, "pred"), "relaxed" not in inst.modifiers)
    barriers = machine.mbarriers

    def step(pc: int, mask: Mask) -> int:
        running = machine.running(mask)
        threads = np.flatnonzero(machine.fall_through_where_guarded(inst, pc, mask))
        if not len(threads):
            return pc + 1 if inst.guard is None else -1
        keys = get_offsets(threads) * 2 + (get_phase()[threads] & 1).astype(np.int64)
        passed = []
        for key in np.unique(keys).tolist():
            offset, parity = divmod(key, 2)
            some = threads[keys == key]
            barrier = barriers.get(offset, some, inst)
            if not barriers.has_ended(barrier, parity):
                barriers.deliver(barrier)
            if barriers.has_ended(barrier, parity):
                barriers.pass_by(barrier, some, of_inst)
                passed.append(some)
            else:
                barriers.wait(barrier, some, parity, of_inst, pc)
        if not passed:
            return -1
        gone_on = np.concatenate(passed)
        through = np.zeros(machine.threads, bool)
        through[gone_on] = True
        of_inst.store(np.full(machine.threads, True), through)
        if len(gone_on) == np.count_nonzero(running):
            return pc + 1
        machine.pc[gone_on] = pc + 1
        return -1

    return step
