"""setmaxnreg: registers that the warps of a program give to its pool and take from it."""

import math
from typing import TYPE_CHECKING

import numpy as np

from ..builder import builds
from ..errors import RegisterBudgetError
from ..operands import Inst
from ..types import Mask
from .control import Jump
from .states import State

if TYPE_CHECKING:
    from .machine import Machine

OF_A_MULTIPROCESSOR, MOST = 65536, 255


class RegisterPools:
    def __init__(self, machine: "Machine") -> None:
        self.machine = machine
        self.at_launch = machine.options.registers or self.allowed()

    def allowed(self) -> int:
        """Registers of a thread by the bounds of the launch, which is what a compiler then gives them."""
        directives = self.machine.entry.directives
        if directives.get("maxnreg"):
            return directives["maxnreg"][0]
        threads = math.prod(directives.get("maxntid") or directives.get("reqntid") or self.machine.block)
        programs = (directives.get("minnctapersm") or [1])[0]
        warps = (threads + 31) // 32 * programs
        return min(MOST, OF_A_MULTIPROCESSOR // (32 * warps) // 8 * 8)

    def start_batch(self) -> None:
        machine = self.machine
        self.free = np.zeros(machine.ctas, np.int64)  # registers a lane, of all warps of a program
        self.owned = np.full(machine.warps, self.at_launch)
        self.wanted = np.zeros(machine.warps, np.int64)

    def change(self, threads: np.ndarray, count: int, place: int, inst: Inst) -> None:
        machine, more = self.machine, "inc" in inst.modifiers
        for warp in np.unique(machine.warp_of[threads]).tolist():
            owned, lanes = int(self.owned[warp]), threads[machine.warp_of[threads] == warp]
            if (count < owned) if more else (count > owned):
                message = f"{inst.opcode} to {count} registers of a warp that has {owned}"
                raise machine.located(RegisterBudgetError(message, int(lanes[0])), inst)
            machine.pc[lanes] = place
            machine.state[lanes] = State.AWAITS_REGISTERS
            self.wanted[warp] = count
        for program in np.unique(machine.cta_of[threads]).tolist():
            self.serve(program)

    def serve(self, program: int) -> None:
        """First those that give."""
        machine = self.machine
        warps = np.arange(machine.cta_warps) + program * machine.cta_warps
        waits = (machine.state.reshape(-1, 32)[warps] == State.AWAITS_REGISTERS).any(1)
        asking = warps[waits]
        for warp in sorted(asking.tolist(), key=lambda warp: self.wanted[warp] - self.owned[warp]):
            need = int(self.wanted[warp] - self.owned[warp])
            if need <= self.free[program]:
                self.free[program] -= need
                self.owned[warp] = self.wanted[warp]
                lanes = np.arange(32) + 32 * warp
                lanes = lanes[machine.state[lanes] == State.AWAITS_REGISTERS]
                machine.state[lanes] = State.RUNNING
                machine.pc[lanes] += 1
                machine.progress += 1

    def in_words(self) -> str:
        free = ", ".join(map(str, np.unique(self.free).tolist()))
        return f"more than the {free} registers a lane that their programs' pools have of {self.at_launch} at launch"


@builds("setmaxnreg")
def set_registers(machine: "Machine", inst: Inst) -> Jump:
    count = inst.args[0].value
    if not 24 <= count <= 256 or count % 8:
        raise machine.located(RegisterBudgetError(f"{inst.text}: 24 .. 256 in steps of 8 are possible"), inst)

    def step(pc: int, mask: Mask) -> int:
        threads = np.flatnonzero(machine.fall_through_where_guarded(inst, pc, mask))
        if len(threads):
            machine.register_pools.change(threads, count, pc, inst)
        return -1

    return step
