"""A parsed PTX module: functions, variables, scopes."""

import itertools
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from .errors import PtxSyntaxError
from .operands import Inst, Reg
from .types import BITS

NUMBER = re.compile(r"^[+-]?(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)[uU]?$")
DECIMAL = re.compile(r"^[+-]?(\d+\.\d*|\.\d+|\d+)([eE][+-]?\d+)?$")
FLOAT_BITS = re.compile(r"^([+-]?)0(?:[fF]([0-9a-fA-F]{8})|[dD]([0-9a-fA-F]{16}))$")


def parse_int(text: str) -> int:
    text = text.strip().rstrip("uU")
    digits = text.lstrip("+-")
    base = {"0x": 16, "0b": 2}.get(digits[:2].lower(), 8 if digits[:1] == "0" else 10)
    value = int(digits, base)
    return -value if text.startswith("-") else value


def split_commas(text: str) -> list[str]:
    """At the commas outside all brackets."""
    if "{" not in text and "(" not in text:
        return [part.strip() for part in text.split(",")] if text else []
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    if parts or text[start:].strip():
        parts.append(text[start:])
    return [part.strip() for part in parts]


@dataclass
class Variable:
    """Of .global, .const, .shared, .local or .param."""

    name: str
    space: str
    align: int
    type: str
    size: int  # bytes
    initial: list[str] | None = None
    extern: bool = False

    def initial_bytes(self, address_of: Callable[[str], int]) -> bytes:
        data = bytearray(self.size)
        size = max(1, BITS[self.type] // 8)
        for i, text in enumerate(self.initial or []):
            value = self._value(text, address_of) & ((1 << 8 * size) - 1)
            data[i * size : (i + 1) * size] = value.to_bytes(size, "little")
        return bytes(data)

    def _value(self, text: str, address_of: Callable[[str], int]) -> int:
        if bits := FLOAT_BITS.match(text):
            return int(bits[2] or bits[3], 16)
        if NUMBER.match(text):
            return parse_int(text)
        if self.type in ("f32", "f64") and DECIMAL.match(text):
            return int.from_bytes(struct.pack("<f" if self.type == "f32" else "<d", float(text)), "little")
        if name := re.match(r"^(?:generic\()?([\w$%]+)\)?(?:\+(\d+))?$", text):
            return address_of(name[1]) + int(name[2] or 0)
        raise PtxSyntaxError(f"initialiser of {self.name}: {text!r}")


DECLARATION = re.compile(
    r"^(?P<linkage>(?:\.(?:visible|extern|weak|common)\s+)*)\.(?P<space>global|const|shared|local|param)\s*"
    r"(?P<attributes>(?:\.\w+(?:\s+\d+)?\s+)*?)"
    r"\.(?P<type>[bsuf]\d+|pred|f16x2|bf16|bf16x2)\s+"
    r"(?:\.ptr(?:\s+\.(?:global|shared|const|local))?(?:\s+\.align\s+\d+)?\s+)?"
    r"(?P<name>[\w$%]+)\s*(?P<dimensions>(?:\[[^\]]*\])*)\s*(?P<initial>=.*)?$",
    re.S,
)


def parse_variable(statement: str) -> Variable:
    match = DECLARATION.match(statement.strip())
    if not match:
        raise PtxSyntaxError(f"cannot parse declaration: {statement[:120]!r}")
    size = max(1, BITS[match["type"]] // 8)
    align = re.search(r"\.align\s+(\d+)", match["attributes"])
    vector = re.search(r"\.v(\d)", match["attributes"])
    initial = None
    if match["initial"] is not None:
        initial = [x.strip() for x in re.sub(r"[{}]", " ", match["initial"][1:]).split(",") if x.strip()]
    extern = "extern" in match["linkage"]
    count = int(vector[1]) if vector else 1
    for dimension in re.findall(r"\[([^\]]*)\]", match["dimensions"]):
        if dimension.strip():
            count *= parse_int(dimension)
        else:
            count = len(initial or [])
            extern |= initial is None and match["space"] == "shared"
    return Variable(
        match["name"],
        match["space"],
        int(align[1]) if align else size,
        match["type"],
        count * size,
        initial,
        extern,
    )


class Scope:
    """A block of a function: its registers and variables."""

    numbers = itertools.count(1)

    def __init__(self, parent: "Scope | None") -> None:
        self.number = next(self.numbers)
        self.parent = parent
        self.outwards: list[Scope] = [self, *(parent.outwards if parent else [])]
        self.registers: dict[str, Reg] = {}
        self.families: dict[str, tuple[int, int]] = {}  # of %r<10>: prefix -> bits, count
        self.variables: dict[str, str] = {}  # name -> unique name


@dataclass(eq=False)
class Function:
    name: str
    is_entry: bool
    line: int = 0
    is_defined: bool = False
    params: list[Variable] = field(default_factory=list)
    returns: list[Variable] = field(default_factory=list)
    directives: dict[str, list[int]] = field(default_factory=dict)  # reqntid and the like
    insts: list[Inst] = field(default_factory=list)
    labels: dict[tuple[int, str], int] = field(default_factory=dict)  # scope, name -> index of the instruction
    tables: dict[tuple[int, str], list[str]] = field(default_factory=dict)  # of branch targets
    shared: list[Variable] = field(default_factory=list)
    local: list[Variable] = field(default_factory=list)
    variables: dict[str, Variable] = field(default_factory=dict)  # by unique name
    registers: list[int] = field(default_factory=list)  # bits

    def label(self, name: str, scope: Scope | None) -> int:
        """The instruction behind a label that is known in a scope."""
        for outer in scope.outwards if scope else []:
            if (outer.number, name) in self.labels:
                return self.labels[outer.number, name]
        raise PtxSyntaxError(f"{self.name}: unknown label {name}")

    def table(self, name: str, scope: Scope | None) -> list[int]:
        """The same of a table of labels."""
        for outer in scope.outwards if scope else []:
            if (outer.number, name) in self.tables:
                return [self.label(target, scope) for target in self.tables[outer.number, name]]
        raise PtxSyntaxError(f"{self.name}: unknown branch table {name}")


@dataclass(eq=False)
class Module:
    target: str = ""  # sm_80
    functions: dict[str, Function] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)

    def entries(self) -> list[str]:
        return [f.name for f in self.functions.values() if f.is_entry]

    def entry(self, name: str) -> Function:
        """By its name, or a unique part of it: preferably the identifier in a mangled name."""
        function = self.functions.get(name)
        if function is not None and function.is_entry:
            return function
        found = [x for x in self.entries() if name in x]
        if len(found) > 1:
            found = [x for x in found if re.search(rf"(?<!\d){len(name)}{re.escape(name)}", x)]
        if len(found) != 1:
            raise KeyError(f"{name!r} is part of {len(found)} of the entries: {self.entries()}")
        return self.functions[found[0]]
