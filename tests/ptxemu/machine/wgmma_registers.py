"""Where a program may touch registers of a wgmma under way, or give it registers that no wgmma.fence covers.

Found by the flow of the program, whatever its conditions are; what is found is then watched when it is executed.
A copy of a register counts as that register: compilers put them between a fence and a product.
"""

import functools
from dataclasses import dataclass, field
from itertools import zip_longest
from operator import or_
from typing import Any, NamedTuple

from ..operands import Imm, Inst, Mem, Pair, Paren, Reg, Vec
from .linker import Program

Groups = tuple[int, ...]  # registers of products under way, a bit each: of those not committed, of the last group, ...
DEEPEST = 8  # groups


@dataclass
class WgmmaRegisters:
    in_flight: set[int] = field(default_factory=set)  # places
    unfenced: list[int] = field(default_factory=list)  # registers, and those that they are copied from
    names: dict[int, str] = field(default_factory=dict)


def registers_of(operand: Any) -> list[Reg]:
    if isinstance(operand, Reg):
        return [operand]
    if isinstance(operand, Mem):
        return [*registers_of(operand.base), *(x for y in operand.coordinates for x in registers_of(y))]
    if isinstance(operand, Vec | Paren):
        return [x for y in operand.items for x in registers_of(y)]
    if isinstance(operand, Pair):
        return [*registers_of(operand.first), *registers_of(operand.second)]
    return []


def registers_in(x: Inst | Any) -> int:
    """Of an operand; of an instruction all, of a wgmma only those of its matrices. A bit each."""
    operands = [x]
    if isinstance(x, Inst):
        operands = [*x.args, x.guard]
        if x.op == "wgmma":
            operands = [operand for operand in x.args[:2] if isinstance(operand, Vec)]
    bits = 0
    for register in (y for operand in operands for y in registers_of(operand)):
        bits |= 1 << register.index
    return bits


def copied(inst: Inst) -> tuple[int, int] | None:
    """Of a move: to which register, from which; -1 for constants."""
    if inst.op != "mov" or not isinstance(inst.args[0], Reg):
        return None
    target, source = inst.args
    if isinstance(source, Reg):
        return target.index, source.index
    return (target.index, -1) if isinstance(source, Imm) else None


def with_sources(registers: int, program: Program) -> int:
    """And the registers that they are copied from."""
    copies = [x for x in map(copied, program.insts) if x is not None and x[1] >= 0]
    before = 0
    while registers != before:
        before = registers
        for target, source in copies:
            registers |= (registers >> target & 1) << source
    return registers


def successors(program: Program, place: int) -> list[int]:
    inst = program.insts[place]
    following = [place + 1] if place + 1 < len(program.insts) else []
    if inst.op == "bra":
        target = program.target(inst, inst.args[0].name)
        return [target, *following] if inst.guard is not None else [target]
    if inst.op == "brx":
        return [*program.targets(inst, inst.args[1].name), *following]
    if inst.op in ("ret", "exit", "trap") and inst.guard is None:
        return []
    return following


class Flow(NamedTuple):
    """What may be at a place, of some way to it; registers are bits."""

    sums: Groups
    lefts: Groups
    touched: int  # since the last wgmma.fence

    def joined(self, other: "Flow") -> "Flow":
        sums = tuple(x | y for x, y in zip_longest(self.sums, other.sums, fillvalue=0))
        lefts = tuple(x | y for x, y in zip_longest(self.lefts, other.lefts, fillvalue=0))
        return Flow(sums, lefts, self.touched | other.touched)

    def after(self, inst: Inst) -> "Flow":
        kind = inst.modifiers[0] if inst.op == "wgmma" else None
        sums, lefts = self.sums, self.lefts
        if kind == "mma_async":
            sums = (sums[0] | registers_in(inst.args[0]), *sums[1:])
            lefts = (lefts[0] | (registers_in(inst) & ~registers_in(inst.args[0])), *lefts[1:])
        elif kind == "commit_group":
            sums, lefts = with_a_group(sums), with_a_group(lefts)
        elif kind == "wait_group":
            kept = int(inst.args[0].value) + 1
            sums, lefts = sums[:kept], lefts[:kept]
        return Flow(sums, lefts, self.touched_after(inst, kind))

    def touched_after(self, inst: Inst, kind: str | None) -> int:
        if kind is not None:
            return 0 if kind == "fence" else self.touched
        copy = copied(inst)
        if copy is None:
            return self.touched | registers_in(inst)
        target, source = copy
        of_source = self.touched >> source & 1 if source >= 0 else 0
        before = self.touched if inst.guard is not None else self.touched & ~(1 << target)
        return before | of_source << target

    def is_suspicious(self, inst: Inst) -> bool:
        sums, lefts = (functools.reduce(or_, groups) for groups in (self.sums, self.lefts))
        registers = registers_in(inst)
        if inst.op != "wgmma":
            return bool(registers & (sums | lefts))
        if inst.modifiers[0] != "mma_async":
            return False
        own = registers_in(inst.args[0])
        return bool((registers & ~own & sums) | (own & lefts)) or own & sums not in (0, own)


def with_a_group(groups: Groups) -> Groups:
    if len(groups) < DEEPEST:
        return (0, *groups)
    *others, last, oldest = groups
    return (0, *others, last | oldest)


@functools.lru_cache(64)
def analyse(program: Program) -> WgmmaRegisters:
    found = WgmmaRegisters()
    products = [inst for inst in program.insts if inst.op == "wgmma" and inst.modifiers[0] == "mma_async"]
    if not products:
        return found
    relevant = with_sources(functools.reduce(or_, map(registers_in, products)), program)
    unfenced = 0
    for inst in products:
        found.names |= {x.index: x.name for operand in inst.args[:2] for x in registers_of(operand)}
    start = min(program.starts.values())
    flows: list[Flow | None] = [None] * len(program.insts)
    flows[start] = Flow((0,), (0,), relevant)
    waiting = [start]
    while waiting:
        place = waiting.pop()
        flow = flows[place]
        assert flow is not None
        behind = flow.after(program.insts[place])
        behind = behind._replace(touched=behind.touched & relevant)
        for target in successors(program, place):
            before = flows[target]
            joined = behind if before is None else before.joined(behind)
            if joined != before:
                flows[target] = joined
                waiting.append(target)
    for place, flow in enumerate(flows):
        if flow is None:
            continue
        inst = program.insts[place]
        if flow.is_suspicious(inst):
            found.in_flight.add(place)
        if inst.op == "wgmma" and inst.modifiers[0] == "mma_async":
            unfenced |= registers_in(inst) & flow.touched
    unfenced = with_sources(unfenced, program)
    found.unfenced = [index for index in range(unfenced.bit_length()) if unfenced >> index & 1]
    return found
