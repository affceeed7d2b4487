"""Who waits for what when everybody waits."""

from typing import TYPE_CHECKING

import numpy as np

from ..errors import DeadlockError, EmuError, RegisterBudgetError
from .states import State

if TYPE_CHECKING:
    from .machine import Machine


def deadlock(machine: "Machine") -> EmuError:
    waiting = np.flatnonzero(machine.state == State.AWAITS_LANES)
    if len(waiting):
        return without_lanes(machine, int(waiting[0]))
    at_barrier = np.flatnonzero(machine.state == State.AT_BARRIER)
    if len(at_barrier):
        thread = int(at_barrier[0])
        parts = at_barriers(machine, int(machine.cta_of[thread])) + elsewhere(machine)
        error: EmuError = DeadlockError("divergent barrier, the block cannot proceed: " + "; ".join(parts), thread)
    else:
        thread = int(np.flatnonzero(machine.alive)[0])
        for_registers = np.flatnonzero(machine.state == State.AWAITS_REGISTERS)
        parts = elsewhere(machine)
        if len(for_registers):
            thread = int(for_registers[0])
            error = RegisterBudgetError("; ".join(parts), thread)
        else:
            error = DeadlockError("every thread waits: " + "; ".join(parts), thread)
    return machine.located(error, machine.insts[int(machine.pc[thread])])


def without_lanes(machine: "Machine", thread: int) -> EmuError:
    inst = machine.insts[int(machine.pc[thread])]
    warp = np.arange(32) + thread // 32 * 32
    here = (machine.state[warp] == State.AWAITS_LANES) & (machine.pc[warp] == machine.pc[thread])
    others = warp[~here & (machine.state[warp] != State.EXITED)]
    lines = sorted({machine.insts[int(pc)].line for pc in machine.pc[others]})
    error = DeadlockError(
        f"{inst.opcode} waits for lanes of its warp that never come: lanes {np.flatnonzero(here).tolist()} are "
        f"at PTX line {inst.line}, the others wait at lines {lines}",
        thread,
    )
    return machine.located(error, inst)


def at_barriers(machine: "Machine", program: int) -> list[str]:
    here = (machine.state == State.AT_BARRIER) & (machine.cta_of == program)
    keys = zip(machine.barriers.number[here].tolist(), machine.pc[here].tolist(), strict=True)
    places: dict[tuple[int, int], int] = {}
    for number, pc in keys:
        key = (number, machine.insts[pc].line)
        places[key] = places.get(key, 0) + 1
    return [
        ", ".join(f"{n} threads at barrier {b} (PTX line {line})" for (b, line), n in sorted(places.items())),
        *(
            f"{len(arrival.warps)} warps arrived at barrier {number}"
            for (of, number), arrivals in machine.barriers.arrivals.items()
            for arrival in arrivals
            if of == program
        ),
    ]


def elsewhere(machine: "Machine") -> list[str]:
    found = machine.mbarriers.waits()
    for state, where in (
        (State.AWAITS_WARPGROUP, "at a wgmma, for other warps of their warpgroup"),
        (State.AT_CLUSTER_BARRIER, "at the barrier of their cluster"),
        (State.AWAITS_REGISTERS, "at a setmaxnreg, " + machine.register_pools.in_words()),
    ):
        threads = np.flatnonzero(machine.state == state)
        if len(threads):
            lines = sorted({machine.insts[int(pc)].line for pc in machine.pc[threads]})
            found.append(f"{len(threads)} threads (PTX lines {lines}) {where}")
    return found
