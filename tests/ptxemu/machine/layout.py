"""Where the variables of a kernel lie in shared memory, local memory and among the parameters."""

import re

from ..errors import EmuError, UnsupportedError
from ..instructions.wmma import BYTES, types_of
from ..memory.agents import is_bulk
from ..operands import Imm, Inst, Mem, Paren, Sym, Vec
from ..program import Function, Module, Variable
from ..types import BITS

# bytes of shared memory per block, by compute capability
SHARED_LIMIT = {70: 98304, 75: 65536, 80: 166912, 86: 101376, 87: 166912, 89: 101376, 120: 101376, 121: 101376}
LARGEST_SHARED = 232448
LARGEST_GRANULE = 16  # bytes: no access touches more at once
SMALLEST_ELEMENT = 2  # bytes, of tensors that are copied in bulk: of smaller ones, two count as one


def callee(inst: Inst) -> str:
    name = next((x.name for x in inst.args if isinstance(x, Sym)), None)
    if name is None:
        raise UnsupportedError(f"indirect call: {inst.text}")
    return name


def reachable(module: Module, entry: Function) -> list[Function]:
    """The functions that the entry calls, callees first, and the entry."""
    found: dict[str, Function] = {}

    def visit(function: Function, callers: list[str]) -> None:
        if function.name in callers:
            raise UnsupportedError(f"recursive call of {function.name}")
        if function.name in found:
            return
        for inst in function.insts:
            if inst.op == "call":
                called = module.functions.get(callee(inst))
                if called is not None and called.is_defined:
                    visit(called, [*callers, function.name])
        found[function.name] = function

    visit(entry, [])
    return list(found.values())


def symbols(functions: list[Function]) -> set[str]:
    """The names that instructions mention."""
    found = set()
    for function in functions:
        for inst in function.insts:
            for operand in inst.args:
                for x in operand.items if isinstance(operand, Vec | Paren) else [operand]:
                    x = x.base if isinstance(x, Mem) else x
                    if isinstance(x, Sym):
                        found.add(x.name)
    return found


def touched_bytes(inst: Inst, space: str) -> int:
    """What an instruction touches of memory with each thread, or more than any does."""
    if inst.op == "mbarrier":
        return 8
    if inst.op == "tensormap":
        return 1
    if is_bulk(inst):
        is_tensor = "tensor" in inst.modifiers
        return SMALLEST_ELEMENT if is_tensor and space == "global" else LARGEST_GRANULE
    if inst.op in ("ld", "ldu", "st", "atom", "red") and inst.types:
        return max(1, BITS[inst.type] // 8) * inst.width
    if inst.op == "cp" and len(inst.args) >= 3 and isinstance(inst.args[2], Imm):
        return int(inst.args[2].value)
    if inst.op == "wmma" and inst.modifiers[0] in ("load", "store") and types_of(inst):
        return BYTES[types_of(inst)[-1]]
    return LARGEST_GRANULE


def readable(name: str) -> str:
    """Without the function, and of a variable of a C++ function its own name."""
    name = name.rsplit("$", 1)[-1]
    mangled = re.match(r"^_ZZ.*E(\d+)(\w+)$", name)
    return mangled[2][: int(mangled[1])] if mangled and len(mangled[2]) >= int(mangled[1]) else name


def align(offset: int, alignment: int) -> int:
    return (offset + alignment - 1) // alignment * alignment


class Layout:
    def __init__(self, module: Module, entry: Function, dynamic: int, guard: int) -> None:
        self.functions = reachable(module, entry)
        self.shared: dict[str, tuple[int, int]] = {}  # name -> offset, size
        self.shared_size = self.place_shared(module, dynamic, guard)
        capability = re.match(r"sm_(\d+)", module.target)
        limit = SHARED_LIMIT.get(int(capability[1]), LARGEST_SHARED) if capability else LARGEST_SHARED
        if self.shared_size > limit:
            raise EmuError(
                f"{entry.name} needs {self.shared_size} bytes of shared memory, {module.target} has {limit} per block"
            )
        self.local, self.local_size = self.place([v for f in self.functions for v in f.local])
        self.parameters, _ = self.place(entry.params)
        insts = [inst for function in self.functions for inst in function.insts]
        # bytes that all accesses divide into, for what is known of each piece of memory
        self.shared_granule = self.granule(insts, ("shared", "generic"))
        self.global_granule = self.granule(insts, ("global", "generic"))

    @staticmethod
    def granule(insts: list[Inst], spaces: tuple[str, ...]) -> int:
        sizes = (touched_bytes(x, spaces[0]) for x in insts if x.op == "cp" or x.space in spaces)
        return min([LARGEST_GRANULE, *sizes])

    def place_shared(self, module: Module, dynamic: int, guard: int) -> int:
        variables = [v for f in self.functions for v in f.shared]
        variables += [v for v in module.variables.values() if v.space == "shared"]
        used = symbols(self.functions)
        variables = [v for v in variables if v.name in used]
        end = 0
        for variable in variables:
            if not variable.extern:
                start = align(end, variable.align)
                self.shared[variable.name] = (start, variable.size)
                end = start + variable.size + guard
        extern = [v for v in variables if v.extern]  # all of them are the dynamic part
        if extern or dynamic:
            end = align(end, max([v.align for v in extern] + [16]))
            self.shared.update({v.name: (end, dynamic) for v in extern})
        return end + dynamic

    @staticmethod
    def place(variables: list[Variable]) -> tuple[dict[str, int], int]:
        places, end = {}, 0
        for variable in variables:
            places[variable.name] = start = align(end, variable.align)
            end = start + variable.size
        return places, end

    def shared_text(self) -> str:
        parts = [f"{readable(name)} at {start:#x} of {size} bytes" for name, (start, size) in self.shared.items()]
        return ", ".join(parts) or "none"

    def shared_name(self, address: int) -> str:
        for name, (start, size) in self.shared.items():
            if start <= address < start + size:
                return f"{readable(name)}+{address - start}"
        return "padding"
