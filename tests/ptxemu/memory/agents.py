"""What accesses shared memory by itself, after an instruction has started it: products of a warpgroup, copies in bulk.

Each is an agent with columns of its own among the vector clocks, in which a tick is one instruction. Who waits for it
learns its ticks, and tells them on at barriers. Products and stores complete in their order, so a warpgroup is one
agent and a warp, for its stores, another. Loads complete by mbarrier: of a program's, every eighth shares an agent.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from ..operands import Inst
from ..types import U32

if TYPE_CHECKING:
    from ..machine import Machine

MBARRIERS, STORES = 8, 4  # agents of a program


def is_bulk(inst: Inst) -> bool:
    return inst.op == "cp" and "bulk" in inst.modifiers


def is_load(inst: Inst) -> bool:
    """Of what completes by an mbarrier."""
    return "mbarrier::complete_tx::bytes" in inst.modifiers


class Agents:
    def __init__(self, machine: "Machine") -> None:
        self.machine = machine
        products = any(inst.op == "wgmma" for inst in machine.insts)
        loads = any(is_load(inst) for inst in machine.insts)
        stores = any(is_bulk(inst) and "bulk_group" in inst.modifiers for inst in machine.insts)
        self.products = math.ceil(machine.cta_warps / 4) * products
        self.loads, self.stores = MBARRIERS * loads, STORES * stores
        self.of_program = self.products + self.loads + self.stores
        self.count = self.of_program * machine.cluster_size  # columns
        self.last = np.zeros((machine.ctas // machine.cluster_size, self.count), U32)  # ticks, [clusters, agents]

    def start_batch(self) -> None:
        self.last[:] = 0
        self.ticks = 0

    def first(self, cta: int) -> int:
        """The first column of a program of the batch."""
        return self.machine.cluster_warps + cta % self.machine.cluster_size * self.of_program

    def of_warpgroup(self, warp: int) -> int:
        """The column of the products of a warp of the batch."""
        cta, warp = divmod(warp, self.machine.cta_warps)
        return self.first(cta) + warp // 4

    def of_mbarrier(self, cta: int, number: int) -> int:
        return self.first(cta) + self.products + number % MBARRIERS

    def of_stores(self, warp: int) -> int:
        cta, warp = divmod(warp, self.machine.cta_warps)
        return self.first(cta) + self.products + self.loads + warp % STORES

    def tick(self, cta: int, column: int) -> int:
        """Of a new instruction."""
        self.ticks += 1
        self.last[cta // self.machine.cluster_size, column - self.machine.cluster_warps] = self.ticks
        self.machine.clocks.known_least = None
        return self.ticks

    def name(self, column: int) -> str:
        number = (column - self.machine.cluster_warps) % max(1, self.of_program)
        if number < self.products:
            return f"a wgmma of warpgroup {number}"
        return "a copy in bulk to it" if number < self.products + self.loads else "a copy in bulk from it"
