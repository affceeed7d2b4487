"""Branches, exit and trap."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..builder import builds
from ..errors import DeviceTrapError, EmuError
from ..operands import Inst
from ..types import Mask

if TYPE_CHECKING:
    from .machine import Machine

# Of a group of threads at one place: where all of them go on; -1 after having set their places or states one by one.
Jump = Callable[[int, Mask], int]

CONTROL = {"bra", "brx", "call", "call_returned", "ret", "exit", "trap", "brkpt", "bar", "barrier", "setmaxnreg"}


# Those of others that wait
WAITS = {("mbarrier", "test_wait"), ("mbarrier", "try_wait"), ("wgmma", "mma_async")}


def is_control(inst: Inst) -> bool:
    return inst.op in CONTROL or (inst.op, *inst.modifiers[:1]) in WAITS


@builds("bra")
def branch(machine: "Machine", inst: Inst) -> Jump:
    target = machine.program.target(inst, inst.args[0].name)
    if inst.guard is None:
        return lambda pc, mask: target
    get = machine.bits(inst.guard, 1)

    def step(pc: int, mask: Mask) -> int:
        condition = get()
        running = machine.running(mask)
        if mask is not None or machine.exited:
            condition = condition & running
        taken = np.count_nonzero(condition)
        if taken == 0:
            return pc + 1
        if taken == (machine.alive_count if mask is None else np.count_nonzero(mask)):
            return target
        machine.pc[running] = pc + 1
        machine.pc[condition] = target
        return -1

    return step


@builds("brx")
def branch_by_table(machine: "Machine", inst: Inst) -> Jump:
    index, table = inst.args
    targets = np.array(machine.program.targets(inst, table.name))
    get = machine.array(index, "u32")

    def step(pc: int, mask: Mask) -> int:
        threads = np.flatnonzero(machine.fall_through_where_guarded(inst, pc, mask))
        chosen = get()[threads]
        if (chosen >= len(targets)).any():
            raise EmuError("brx.idx index out of range", int(threads[(chosen >= len(targets)).argmax()]))
        machine.pc[threads] = targets[chosen]
        return -1

    return step


@builds("exit")
def leave(machine: "Machine", inst: Inst) -> Jump:
    def step(pc: int, mask: Mask) -> int:
        running = machine.fall_through_where_guarded(inst, pc, mask)
        if running.any():
            machine.exit(running)
        return -1

    return step


@builds("trap", "brkpt")
def trap(machine: "Machine", inst: Inst) -> Jump:
    def step(pc: int, mask: Mask) -> int:
        running = machine.fall_through_where_guarded(inst, pc, mask)
        if running.any():
            raise DeviceTrapError("trap", int(np.flatnonzero(running)[0]))
        return -1

    return step
