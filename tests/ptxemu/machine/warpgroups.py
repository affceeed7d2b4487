"""Products of warpgroups under way: what they read of shared memory until a wait, and the registers that they own."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import InFlightError
from ..operands import Inst, items
from ..types import Mask
from .control import Jump
from .states import State
from .wgmma_registers import WgmmaRegisters, analyse, copied, registers_in

if TYPE_CHECKING:
    from .machine import Machine


class Product(NamedTuple):
    inst: Inst
    registers: int  # a bit each
    sums: int  # those of the accumulator


class Accumulators:
    """Sums as matrices, by the identity of their registers: the next product adds to them."""

    def __init__(self) -> None:
        self.registers: list[np.ndarray] = []
        self.threads = self.sums = np.zeros(0)

    def keep(self, registers: list[np.ndarray], threads: np.ndarray, sums: np.ndarray) -> None:
        self.registers, self.threads, self.sums = registers, threads, sums

    def get(self, registers: list[np.ndarray], threads: np.ndarray) -> np.ndarray | None:
        same = len(registers) == len(self.registers) and all(
            x is y for x, y in zip(registers, self.registers, strict=True)
        )
        return self.sums if same and np.array_equal(threads, self.threads) else None


class Warpgroups:
    def __init__(self, machine: "Machine") -> None:
        self.machine = machine
        self.accumulators = Accumulators()
        self.found: WgmmaRegisters = analyse(machine.program)  # places where something may be wrong

    def start_batch(self) -> None:
        warps = self.machine.warps
        self.accumulators.keep([], np.zeros(0), np.zeros(0))
        self.last = np.zeros(warps, np.int64)  # tick of the last product of a warp
        self.groups: list[list[int]] = [[] for _ in range(warps)]  # last ticks of those that no wait has covered
        self.done = np.zeros(warps, np.int64)  # tick that it has waited for
        self.under_way: list[list[tuple[int, Product]]] = [[] for _ in range(warps)]
        self.last_inst: dict[int, Inst] = {}
        self.fenced = np.zeros(warps, bool)
        self.touched = np.ones((len(self.found.unfenced), warps), bool)  # since the last fence

    def columns(self, warps: np.ndarray) -> np.ndarray:
        return np.array([self.machine.agents.of_warpgroup(warp) for warp in warps.tolist()])

    def issue(self, inst: Inst, product: Product, warps: np.ndarray) -> np.ndarray:
        """``warps`` [groups, 4]; gives the tick of each group."""
        machine, ticks = self.machine, []
        for group in warps:
            first = int(group[0])
            tick = machine.agents.tick(first // machine.cta_warps, machine.agents.of_warpgroup(first))
            ticks.append(tick)
            self.last[group] = tick
            if self.found.in_flight:
                for warp in group.tolist():
                    self.under_way[warp].append((tick, product))
            self.last_inst[first] = inst
        return np.array(ticks)

    def commit(self, warps: np.ndarray) -> None:
        for warp in warps.tolist():
            self.groups[warp].append(int(self.last[warp]))

    def wait(self, warps: np.ndarray, pending: int) -> None:
        for warp in warps.tolist():
            groups = self.groups[warp]
            covered = groups[: max(0, len(groups) - pending)]
            if covered:
                self.done[warp] = covered[-1]
                self.groups[warp] = groups[len(covered) :]
                self.under_way[warp] = [x for x in self.under_way[warp] if x[0] > covered[-1]]
        self.machine.clocks.learn_of_agent(warps, self.columns(warps), self.done[warps])

    def unfinished(self) -> tuple[Inst, int] | None:
        """A product that nobody has waited for."""
        machine = self.machine
        late = np.flatnonzero(self.last > self.done)
        if len(late):
            warp = int(late[0])
            first = warp // machine.cta_warps * machine.cta_warps + warp % machine.cta_warps // 4 * 4
            return self.last_inst[first], 32 * warp
        return None

    # Registers

    def product_of(self, inst: Inst) -> Product:
        return Product(inst, registers_in(inst), registers_in(inst.args[0]))

    def fence(self, warps: np.ndarray) -> None:
        self.fenced[warps] = True
        self.touched[:, warps] = False

    def check(self, inst: Inst, product: Product, warps: np.ndarray) -> None:
        """Before it is issued."""
        if not self.fenced[warps].all():
            message = f"{inst.opcode} before any wgmma.fence"
            self.report(InFlightError(message, int(warps[~self.fenced[warps]][0]) * 32), inst)
        for number, register in enumerate(self.found.unfenced):
            late = warps[self.touched[number][warps]] if product.registers >> register & 1 else []
            if len(late):
                name = self.found.names[register]
                message = f"{inst.opcode} takes {name}, which was touched since the last wgmma.fence"
                self.report(InFlightError(message, int(late[0]) * 32), inst)
        if self.found.in_flight:
            for warp in warps.tolist():
                for _, other in self.under_way[warp]:
                    same = other.sums == product.sums and items(other.inst.args[0]) == items(inst.args[0])
                    clash = other.sums & product.registers & ~(product.sums if same else 0)
                    clash |= other.registers & ~other.sums & product.sums
                    if clash:
                        self.complain(inst, clash, other, warp)

    def complain(self, inst: Inst, clash: int, other: Product, warp: int) -> None:
        names = self.found.names
        register = names.get((clash & -clash).bit_length() - 1, "a register")
        message = (
            f"{inst.op} touches {register} of a wgmma under way (PTX line {other.inst.line}): no wgmma.wait_group has "
            "completed it"
        )
        self.report(InFlightError(message, warp * 32), inst)

    def report(self, error: InFlightError, inst: Inst) -> None:
        self.machine.report(self.machine.options.in_flight, error, inst)

    def watched(self, place: int, step: Callable[..., Any]) -> Callable[..., Any]:
        """The step, and what has to be looked at where registers of products may be touched out of turn."""
        machine, found = self.machine, self.found
        inst = machine.insts[place]
        if not found.names or inst.op == "wgmma" or machine.options.in_flight == "off":
            return step
        registers = registers_in(inst)
        numbers = [k for k, register in enumerate(found.unfenced) if registers >> register & 1]
        copy = copied(inst)
        suspicious = place in found.in_flight
        if not numbers and not suspicious:
            return step

        def watched_step(*arguments: Any) -> Any:
            running = machine.running(arguments[-1])
            if inst.guard is not None:
                running = running & machine.bits(inst.guard, 1)()
            warps = np.unique(machine.warp_of[running])
            if suspicious:
                for warp in warps.tolist():
                    for _, other in self.under_way[warp]:
                        if other.registers & registers:
                            self.complain(inst, other.registers & registers, other, warp)
            if copy is not None:
                target, source = (found.unfenced.index(x) if x in found.unfenced else -1 for x in copy)
                if target >= 0:
                    self.touched[target, warps] = self.touched[source, warps] if source >= 0 else False
            elif numbers:
                self.touched[np.array(numbers)[:, None], warps] = True
            return step(*arguments)

        return watched_step


def together(machine: "Machine", inst: Inst, act: Callable[[np.ndarray], None]) -> Jump:
    """Acts for the warpgroups of which all warps have come, [groups, 128] threads; the others wait."""

    def step(pc: int, mask: Mask) -> int:
        come = machine.fall_through_where_guarded(inst, pc, mask)
        machine.state[come] = State.AWAITS_WARPGROUP
        machine.pc[come] = pc
        here = (machine.state == State.AWAITS_WARPGROUP) & (machine.pc == pc)
        whole = here.reshape(machine.ctas, -1)[:, : machine.cta_threads // 128 * 128].reshape(machine.ctas, -1, 128)
        program, group = np.nonzero(whole.all(2))
        if len(program):
            threads = (program * machine.cta_threads + 128 * group)[:, None] + np.arange(128)
            act(threads)
            machine.state[threads] = State.RUNNING
            machine.pc[threads] = pc + 1
            running = machine.running(mask)
            if threads.size == np.count_nonzero(running) and running[threads].all():
                return pc + 1
        return -1

    return step
