"""What the parser makes of an instruction."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .types import BITS

if TYPE_CHECKING:
    from .program import Function, Scope


@dataclass(slots=True, frozen=True)
class Reg:
    """A register; as a predicate maybe negated."""

    index: int
    bits: int
    name: str
    negated: bool = False

    def __repr__(self) -> str:
        return "!" * self.negated + self.name


@dataclass(slots=True, frozen=True)
class Imm:
    """A literal: an integer, the bits of a float ("f32", "f64"), or a decimal fraction."""

    value: Any
    kind: str = "int"


@dataclass(slots=True, frozen=True)
class Sym:
    """The address of a variable."""

    name: str
    offset: int = 0


@dataclass(slots=True, frozen=True)
class Special:
    """%tid.x and the like."""

    name: str


@dataclass(slots=True, frozen=True)
class Sink:
    """A destination that drops its value: _."""


@dataclass(slots=True, frozen=True)
class Mem:
    """[base + offset], of a tensor [base + offset, {coordinates}]"""

    base: Any  # Reg, Sym or Imm
    offset: int
    coordinates: list[Any] = field(default_factory=list)


@dataclass(slots=True, frozen=True)
class Vec:
    """{a, b, ...}"""

    items: list[Any]


@dataclass(slots=True, frozen=True)
class Paren:
    """(a, b, ...) of a call."""

    items: list[Any]


@dataclass(slots=True, frozen=True)
class Pair:
    """a|b, two destinations."""

    first: Any
    second: Any


def items(operand: Any) -> list[Any]:
    return operand.items if isinstance(operand, Vec) else [operand]


def shifted(operand: Any, by: int) -> Any:
    """The operand with its registers numbered from ``by``: every function has its own."""
    if isinstance(operand, Reg):
        return replace(operand, index=operand.index + by)
    if isinstance(operand, Mem):
        return Mem(shifted(operand.base, by), operand.offset, [shifted(x, by) for x in operand.coordinates])
    if isinstance(operand, Vec | Paren):
        return type(operand)([shifted(x, by) for x in operand.items])
    if isinstance(operand, Pair):
        return Pair(shifted(operand.first, by), shifted(operand.second, by))
    return operand


@dataclass
class Inst:
    """An instruction: ``@guard op.modifiers args``."""

    opcode: str
    args: list[Any]
    guard: Reg | None
    line: int
    text: str
    scope: "Scope | None"
    function: "Function"
    source: tuple[str, int] | None = None  # file and line

    def __post_init__(self) -> None:
        self.op, *self.modifiers = self.opcode.split(".")

    @cached_property
    def types(self) -> list[str]:
        return [x for x in self.modifiers if x in BITS]

    @cached_property
    def type(self) -> str:
        """The last one: of the operands."""
        return self.types[-1]

    @cached_property
    def space(self) -> str:
        """The state space of the address; "generic" where none is named."""
        named = (x.split("::")[0] for x in self.modifiers)
        return next((x for x in named if x in ("global", "shared", "local", "const", "param")), "generic")

    @cached_property
    def width(self) -> int:
        """Elements of a vector access."""
        return next((int(x[1]) for x in self.modifiers if x in ("v2", "v4", "v8")), 1)

    def one_of(self, *names: str) -> str | None:
        """The first modifier that is one of the names."""
        return next((x for x in self.modifiers if x in names), None)

    def shifted(self, by: int) -> "Inst":
        guard = shifted(self.guard, by)
        return replace(self, args=[shifted(x, by) for x in self.args], guard=guard)
