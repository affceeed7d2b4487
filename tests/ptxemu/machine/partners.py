"""Instructions of a warp whose lanes come one by one: who is early waits."""

from typing import TYPE_CHECKING

import numpy as np

from ..errors import DeadlockError, DivergenceError
from ..instructions import warp
from ..operands import Inst
from ..types import Mask, Step
from .control import Jump
from .states import State

if TYPE_CHECKING:
    from .machine import Machine


class Partners:
    def __init__(self, machine: "Machine") -> None:
        self.machine = machine

    def start_batch(self) -> None:
        self.wanted = np.zeros(self.machine.threads, np.uint32)  # lanes for which a thread waits

    def step(self, inst: Inst, act: Step) -> Jump:
        """Acts for the lanes that have all their partners."""
        machine = self.machine
        named = warp.members(inst)
        get_wanted = machine.array(named, "b32") if named is not None else None

        def step(pc: int, mask: Mask) -> int:
            come = machine.running(mask) | ((machine.state == State.AWAITS_LANES) & (machine.pc == pc))
            machine.state[come] = State.RUNNING
            machine.pc[come] = pc
            come = machine.fall_through_where_guarded(inst, pc, come)
            if not come.any():
                return -1
            alive = warp.ballot(machine.alive)
            wanted = np.full(machine.threads, 0xFFFFFFFF, np.uint32) if get_wanted is None else get_wanted()
            missing = wanted & np.repeat(alive & ~warp.ballot(come), 32)
            ready = come & (missing == 0)
            if named is None:
                self.check_whole_warps(inst, ready, alive)
            if ready.any():
                act(None if np.count_nonzero(ready) == machine.alive_count else ready)
                machine.pc[ready] = pc + 1
            early = come & ~ready
            machine.state[early] = State.AWAITS_LANES
            self.wanted[early] = wanted[early]
            return -1

        return step

    def check_whole_warps(self, inst: Inst, ready: np.ndarray, alive: np.ndarray) -> None:
        machine = self.machine
        gone = ready & np.repeat(alive != np.uint32(0xFFFFFFFF), 32)
        if gone.any():
            message = f"{inst.opcode} needs the whole warp, but some lanes have exited or do not exist"
            error = DivergenceError(message, int(np.flatnonzero(gone)[0]))
            machine.report(machine.options.divergence, error, inst)

    def threads_exit(self, exiting: np.ndarray) -> None:
        """Nobody waits for them: the others try again."""
        machine = self.machine
        waiting = machine.state == State.AWAITS_LANES
        in_vain = waiting & (self.wanted & np.repeat(warp.ballot(exiting), 32) != 0)
        if in_vain.any():
            thread = int(np.flatnonzero(in_vain)[0])
            inst = machine.insts[int(machine.pc[thread])]
            message = f"{inst.opcode} on PTX line {inst.line} waits for lanes that never come: they exit"
            machine.report(machine.options.divergence, DeadlockError(message, thread), inst)
        machine.state[waiting] = State.RUNNING
