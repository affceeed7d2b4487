"""Comparison and selection."""

from collections.abc import Callable

import numpy as np

from ..builder import Registers, builds
from ..operands import Inst, Pair
from ..types import BITS, F32, F64, FLOATS, NUMPY, U16, U32, Mask, Step

COMPARISONS: dict[str, Callable[..., np.ndarray]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
    # of floats, true for NaN
    "neu": np.not_equal,
    "equ": lambda a, b: ~((a < b) | (a > b)),
    "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}
LOGICAL = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def comparison(inst: Inst) -> Callable[..., np.ndarray]:
    if inst.modifiers[0] == "ne" and inst.type in FLOATS:
        return lambda a, b: (a < b) | (a > b)
    return COMPARISONS[inst.modifiers[0]]


def combination(machine: Registers, inst: Inst) -> Callable[[np.ndarray], np.ndarray]:
    """With a third operand, a predicate, if there is one."""
    name = next((x for x in inst.modifiers[1:] if x in LOGICAL), None)
    if name is None:
        return lambda x: x
    logical, get = LOGICAL[name], machine.bits(inst.args[3], 1)
    return lambda x: logical(x, get())


@builds("setp")
def set_predicate(machine: Registers, inst: Inst) -> Step:
    target, a, b = inst.args[:3]
    compare, combine = comparison(inst), combination(machine, inst)
    get_a, get_b = machine.values((a, inst.type), (b, inst.type))
    if not isinstance(target, Pair):
        store = machine.setter(target, "pred")
        return lambda mask: store(combine(compare(get_a(), get_b())), mask)
    first, second = machine.setter(target.first, "pred"), machine.setter(target.second, "pred")
    packed = inst.type.endswith("x2")

    def step(mask: Mask) -> None:
        result = compare(get_a(), get_b())
        # of a pair of halves, one each; else the result and its opposite
        one, other = (result[:, 0].copy(), result[:, 1].copy()) if packed else (result, ~result)
        one, other = combine(one), combine(other)
        first(one, mask)
        second(other, mask)

    return step


@builds("set")
def set_number(machine: Registers, inst: Inst) -> Step:
    """1.0, or all bits, where the comparison holds."""
    target, a, b = inst.args[:3]
    result_type = inst.types[-2]
    compare, combine = comparison(inst), combination(machine, inst)
    get_a, get_b = machine.values((a, inst.type), (b, inst.type))
    store = machine.setter(target, result_type)

    def step(mask: Mask) -> None:
        result = compare(get_a(), get_b())
        result = np.stack([combine(x) for x in result.T], 1) if result.ndim == 2 else combine(result)
        if result_type in FLOATS:
            store(result.astype(F64 if result_type == "f64" else F32), mask)
        elif result.ndim == 2:
            ones = np.where(result, U16(0xFFFF), U16(0))
            store(np.ascontiguousarray(ones).view(U32).reshape(-1).view(NUMPY[result_type]), mask)
        else:
            dtype = NUMPY[result_type]
            store(np.where(result, ~dtype(0), dtype(0)), mask)

    return step


@builds("selp")
def select(machine: Registers, inst: Inst) -> Step:
    target, a, b, condition = inst.args
    bits = f"b{BITS[inst.type]}"
    get_a, get_b = machine.values((a, bits), (b, bits))
    get_condition = machine.bits(condition, 1)
    store = machine.setter(target, bits)
    return lambda mask: store(np.where(get_condition(), get_a(), get_b()), mask)
