"""mma.sync of f16, bf16 and tf32: fragments are gathered into matrices, which are multiplied as tensor cores do."""

import re
from collections.abc import Callable

import numpy as np

from .. import numerics, tensor_core
from ..builder import Registers, builds, unsupported
from ..operands import Inst, items
from ..types import F16, F32, U16, U32, Mask, Step

IN_A_REGISTER = {"f16": 2, "bf16": 2, "tf32": 1}  # elements


def shape_of(inst: Inst) -> tuple[int, int, int]:
    for modifier in inst.modifiers:
        if match := re.match(r"^m(\d+)n(\d+)k(\d+)$", modifier):
            return int(match[1]), int(match[2]), int(match[3])
    raise unsupported(inst, "no shape")


def decode(words: np.ndarray, type_: str) -> np.ndarray:
    """The elements of registers as float32, along a new last axis."""
    if type_ == "tf32":
        return numerics.tf32(words)[..., None]
    halves = words.view(U16).reshape(*words.shape, 2)
    return halves.view(F16).astype(F32) if type_ == "f16" else numerics.bf16_to_f32(halves)


# In these, lane = 4 * group + place. Registers of A: upper and lower half of the rows, then of the columns.


def gather_a(registers: list[np.ndarray], M: int, K: int, type_: str) -> np.ndarray:
    """[K, M, warps]"""
    elements = IN_A_REGISTER[type_]
    x = decode(np.array(registers), type_)
    x = x.reshape(K // (4 * elements), M // 8, -1, 8, 4, elements)  # part of K, half of M, warp, group, place, element
    return np.ascontiguousarray(x.transpose(0, 4, 5, 1, 3, 2)).reshape(K, M, -1)


def gather_b(registers: list[np.ndarray], K: int, N: int, type_: str) -> np.ndarray:
    """[K, N, warps]"""
    elements = IN_A_REGISTER[type_]
    x = decode(np.array(registers), type_)
    x = x.reshape(K // (4 * elements), -1, 8, 4, elements)  # part of K, warp, group, place, element
    return np.ascontiguousarray(x.transpose(0, 3, 4, 2, 1)).reshape(K, N, -1)


class Fragments:
    """Decoded, by the identity of their registers, which are never modified: many products share one."""

    def __init__(self, capacity: int = 96) -> None:
        self.capacity = capacity
        self.kept: dict[tuple, tuple[list[np.ndarray], np.ndarray]] = {}

    def get(self, kind: tuple, registers: list[np.ndarray], gather: Callable[..., np.ndarray]) -> np.ndarray:
        key = (kind, *map(id, registers))
        found = self.kept.get(key)
        if found is None:
            if len(self.kept) >= self.capacity:
                for old in list(self.kept)[: self.capacity // 2]:
                    del self.kept[old]
            # holding the registers keeps their ids theirs
            found = self.kept[key] = (registers, gather(registers, *kind[1:]))
        return found[1]


@builds("mma")
def multiply(machine: Registers, inst: Inst) -> Step:
    M, N, K = shape_of(inst)
    types = [x for x in inst.modifiers if x in (*IN_A_REGISTER, "f32")]
    layouts = [x for x in inst.modifiers if x in ("row", "col")]
    if layouts != ["row", "col"] or len(types) != 4 or (M, N) != (16, 8) or types[1] not in IN_A_REGISTER:
        raise unsupported(inst)
    to, a, b, of = types
    D, A, B, C = (items(x) for x in inst.args[:4])
    elements = 32 * IN_A_REGISTER[a]
    if (len(A), len(B)) != (M * K // elements, K * N // elements) or (to, of) not in (("f32", "f32"), ("f16", "f16")):
        raise unsupported(inst)
    get_a, get_b, get_c = ([machine.array(x, "b32") for x in operand] for operand in (A, B, C))
    setters = [machine.setter(x, "b32") for x in D]
    fragments = machine.fragments
    kind_a, kind_b = ("a", M, K, a), ("b", K, N, b)

    def product(summand: np.ndarray) -> np.ndarray:
        """Of summands [half of M, element, warp, group, place] the sums, [half of M, group, place, element, warp]"""
        left = fragments.get(kind_a, [get() for get in get_a], gather_a)
        right = fragments.get(kind_b, [get() for get in get_b], gather_b)
        c = summand.reshape(2, 2, -1, 8, 4).transpose(0, 3, 4, 1, 2)
        sums = tensor_core.multiply_add(left, right, np.ascontiguousarray(c).reshape(M, N, -1), a)
        return sums.reshape(2, 8, 4, 2, -1)

    def to_floats(mask: Mask) -> None:
        summands = np.array([get() for get in get_c]).view(F32)  # before any of them is overwritten
        registers = np.ascontiguousarray(product(summands).transpose(0, 3, 4, 1, 2)).reshape(4, -1)
        for store, x in zip(setters, registers, strict=True):
            store(x.view(U32), mask)

    def to_halves(mask: Mask) -> None:
        summands = np.moveaxis(decode(np.array([get() for get in get_c]), "f16"), -1, 1)  # [half of M, element, thread]
        halves = product(np.ascontiguousarray(summands)).astype(F16)  # these are rounded
        for store, x in zip(setters, np.ascontiguousarray(halves.transpose(0, 4, 1, 2, 3)), strict=True):
            store(x.view(U32).reshape(-1), mask)

    return to_floats if to == "f32" else to_halves
