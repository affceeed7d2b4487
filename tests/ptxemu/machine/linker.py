"""The functions of a kernel in one list of instructions."""

import functools
from dataclasses import dataclass, replace
from enum import IntEnum

from ..builder import builder_of
from ..errors import UnsupportedError
from ..instructions import warp
from ..operands import Inst
from ..program import Function, Module
from .control import is_control
from .layout import callee, reachable


class Kind(IntEnum):
    PLAIN = 0
    TOGETHER = 1  # plain if whole warps execute it, which then have all partners
    CONTROL = 2


@dataclass(eq=False)
class Program:
    insts: list[Inst]
    kinds: list[Kind]
    starts: dict[str, int]  # function -> its first instruction
    places: dict[str, list[int]]  # function -> where its instructions are; at last, its end
    registers: list[int]  # bits
    next_control: list[int]  # at or behind every instruction
    next_together: list[int]  # the same, or an instruction of whole warps

    def target(self, inst: Inst, label: str) -> int:
        return self.places[inst.function.name][inst.function.label(label, inst.scope)]

    def targets(self, inst: Inst, table: str) -> list[int]:
        places = self.places[inst.function.name]
        return [places[i] for i in inst.function.table(table, inst.scope)]


def kind_of(inst: Inst) -> Kind:
    if warp.needs_partners(inst):
        # with a guard, some lanes may be without partners
        return Kind.TOGETHER if inst.guard is None else Kind.CONTROL
    return Kind.CONTROL if is_control(inst) else Kind.PLAIN


def with_returns(module: Module, function: Function) -> tuple[list[Inst], list[int]]:
    """The instructions, with what takes the results behind every call, and where each one is."""
    insts: list[Inst] = []
    places = []
    for inst in function.insts:
        places.append(len(insts))
        insts.append(inst)
        if inst.op == "call":
            called = module.functions.get(callee(inst))
            if called is not None and called.is_defined:
                insts.append(replace(inst, opcode="call_returned"))
    places.append(len(insts))
    line = insts[-1].line if insts else function.line
    insts.append(Inst("ret", [], None, line, "end of function", None, function))
    return insts, places


@functools.lru_cache(64)
def link(module: Module, entry: Function) -> Program:
    program = Program([], [], {}, {}, [], [], [])
    for function in [entry, *(f for f in reachable(module, entry) if f is not entry)]:
        insts, places = with_returns(module, function)
        start, first_register = len(program.insts), len(program.registers)
        program.starts[function.name] = start
        program.places[function.name] = [start + place for place in places]
        program.insts += [inst.shifted(first_register) if first_register else inst for inst in insts]
        program.registers += function.registers
    for inst in program.insts:
        try:
            builder_of(inst)
        except UnsupportedError as error:
            error.kernel, error.line, error.source = entry.name, inst.line, inst.source
            raise
    program.kinds = [kind_of(inst) for inst in program.insts]
    end = control = together = len(program.insts)
    program.next_control, program.next_together = [end] * (end + 1), [end] * (end + 1)
    for i in reversed(range(end)):
        control = i if program.kinds[i] is Kind.CONTROL else control
        together = i if program.kinds[i] is not Kind.PLAIN else together
        program.next_control[i], program.next_together[i] = control, together
    return program
