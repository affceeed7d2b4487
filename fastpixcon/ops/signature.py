"""Arguments of an operator: written once, as those of its fake kernel, in values that belong together.

A schema has tensors, numbers and words alone, so the fields of a value (``fastpixcon/values.py``) follow each other in
it: those of rows and banks have names like ``anchors``, ``anchor_labels``, others their own, ``temperature``; where it
is taken, with the name of the argument before it, ``column_weight``. A value left out has None for each of them.
"""

import inspect
from collections.abc import Callable, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from torch import Tensor

__all__ = ["InPlace", "Mask", "Signature", "Size", "Sizes", "Two", "flat", "signature"]

Mask = Annotated[list[bool], "bool[3]"]  # which results are wanted
Size = Annotated[int, "SymInt"]
Sizes = Annotated[list[int], "SymInt[]"]
Two = Annotated[list[int], "int[2]"]
InPlace = Annotated[Tensor, "Tensor({}!)"]  # is written to

_LEAVES = {Tensor: "Tensor", bool: "bool", int: "int", float: "float", str: "str"}


class Leaf(NamedTuple):
    """What a schema has."""

    type: str
    name: str


class Argument(NamedTuple):
    name: str
    value: Any  # the type of a value; None: it is a leaf
    is_optional: bool


class Signature(NamedTuple):
    arguments: tuple[Argument, ...]
    leaves: tuple[Leaf, ...]
    widths: tuple[int, ...]  # leaves of each argument that is a value, 0 of others
    schema: str

    def values(self, leaves: Sequence[Any]) -> dict[str, Any]:
        """The arguments by name, of what a schema has."""
        at, values = 0, {}
        for (name, kind, is_optional), width in zip(self.arguments, self.widths, strict=True):
            first = leaves[at]
            if kind is None:
                values[name] = first
                at += 1
                continue
            values[name] = None if is_optional and first is None else kind._make(leaves[at : at + width])
            at += width
        return values

    def place(self, leaf: str) -> int:
        """Among the leaves."""
        return [x.name for x in self.leaves].index(leaf)


def signature(fake: Callable[..., Any], returns: Sequence[str]) -> Signature:
    """Of an operator with this fake kernel, which returns tensors of these names."""
    arguments, leaves, widths = [], list[Leaf](), []
    hints = get_type_hints(fake, include_extras=True)
    for name in inspect.signature(fake).parameters:
        kind, is_optional = _without_none(hints[name])
        fields: tuple[str, ...] = getattr(kind, "_fields", ())
        arguments.append(Argument(name, kind if fields else None, is_optional))
        widths.append(len(fields))
        if not fields:
            leaves.append(Leaf(_type(kind, is_optional, len(leaves)), name))
        inner = get_type_hints(kind) if fields else {}
        taken = {x.name for x in leaves}
        for field in fields:
            of, may_be_none = _without_none(inner[field])
            own = field if fields[0] != "x" and field not in taken else f"{name.removesuffix('s')}_{field}"
            leaves.append(Leaf(_type(of, is_optional or may_be_none, len(leaves)), name if field == "x" else own))
    outputs = ", ".join(f"Tensor {name}" for name in returns)
    outputs = outputs if len(returns) == 1 else f"({outputs})"
    schema = f"({', '.join(f'{x.type} {x.name}' for x in leaves)}) -> {outputs}"
    return Signature(tuple(arguments), tuple(leaves), tuple(widths), schema)


def flat(values: Sequence[Any], widths: Sequence[int]) -> list[Any]:
    """What a schema has, of the arguments."""
    leaves: list[Any] = []
    for value, width in zip(values, widths, strict=True):
        if width == 0:
            leaves.append(value)
        else:
            leaves += [None] * width if value is None else value
    return leaves


def _without_none(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) in (UnionType, Union) and NoneType in get_args(hint):
        (kind,) = (x for x in get_args(hint) if x is not NoneType)
        return kind, True
    return hint, False


def _type(kind: Any, is_optional: bool, number: int) -> str:
    if get_origin(kind) is Annotated:
        return str(get_args(kind)[1]).format(chr(ord("a") + number))
    return _LEAVES[kind] + "?" * is_optional
