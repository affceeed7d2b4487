"""Arithmetic and functions of floats, halves and pairs of halves.

As exact as numpy, which .approx on a GPU is not. Halves are computed in float32 and rounded once.
"""

from collections.abc import Callable

import numpy as np

from .. import numerics
from ..builder import Registers, builds
from ..operands import Inst
from ..types import F16, F32, F64, HALVES, U16, U32, Mask, Step

FLOATING = ("float",)
Function = Callable[..., np.ndarray]


def rounding(inst: Inst) -> str | None:
    """Other than to the nearest."""
    return inst.one_of("rz", "rm", "rp")


def finished(function: Function, inst: Inst) -> Function:
    """With .ftz, .sat and .relu."""
    filters = [numerics.flush] if "ftz" in inst.modifiers and inst.type == "f32" else []
    filters += [numerics.saturate] if "sat" in inst.modifiers else []
    filters += [numerics.relu] if "relu" in inst.modifiers else []
    if not filters:
        return function
    if len(filters) == 1:
        only = filters[0]
        return lambda *operands: only(function(*operands))

    def all_of_them(*operands: np.ndarray) -> np.ndarray:
        result = function(*operands)
        for finish in filters:
            result = finish(result)
        return result

    return all_of_them


def rounded(function: Function, inst: Inst) -> Function:
    """Computed in a wider type if it is to be rounded in a direction."""
    mode = rounding(inst)
    if mode is None:
        return function
    dtype, wide = (F64, np.longdouble) if inst.type == "f64" else (F32, F64)
    return lambda *operands: numerics.directed(function(*(x.astype(wide) for x in operands)), dtype, mode)


BINARY = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}


@builds(*BINARY, of=FLOATING)
def binary(machine: Registers, inst: Inst) -> Step:
    target, a, b = inst.args
    function = finished(rounded(BINARY[inst.op], inst), inst)
    return machine.compute(target, inst.type, function, (a, inst.type), (b, inst.type))


@builds("fma", "mad", of=FLOATING)
def fused_multiply_add(machine: Registers, inst: Inst) -> Step:
    if inst.type in HALVES:
        return fused_multiply_add_of_halves(machine, inst)
    target, *operands = inst.args
    mode = rounding(inst)

    def function(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        if inst.type == "f64":
            return numerics.round_to(x.astype(np.longdouble) * y + z, F64, mode)
        wide = np.multiply(x, y, dtype=F64) + z
        return wide.astype(F32) if mode is None else numerics.directed(wide, F32, mode)

    return machine.compute(target, inst.type, finished(function, inst), *((x, inst.type) for x in operands))


def fused_multiply_add_of_halves(machine: Registers, inst: Inst) -> Step:
    target, *operands = inst.args
    getters = machine.values(*((x, inst.type) for x in operands))
    function = finished(lambda x, y, z: np.multiply(x, y, dtype=F64) + z, inst)
    packed = inst.type.endswith("x2")
    store = machine.setter(target, "b32" if packed else "b16")

    def step(mask: Mask) -> None:
        wide = function(*(get() for get in getters))
        halves = numerics.f64_to_bf16(wide) if inst.type.startswith("bf16") else wide.astype(F16).view(U16)
        store(np.ascontiguousarray(halves).view(U32).reshape(-1) if packed else halves, mask)

    return step


@builds("min", "max", of=FLOATING)
def extremum(machine: Registers, inst: Inst) -> Step:
    """Of two or three; NaN is ignored unless .NaN."""
    target, *operands = inst.args
    pick = {("min", False): np.fmin, ("max", False): np.fmax, ("min", True): np.minimum, ("max", True): np.maximum}[
        inst.op, "NaN" in inst.modifiers
    ]
    of_two = finished(pick, inst)
    function = of_two if len(operands) == 2 else lambda x, y, z: of_two(of_two(x, y), z)
    return machine.compute(target, inst.type, function, *((x, inst.type) for x in operands))


@builds("copysign")
def copy_sign(machine: Registers, inst: Inst) -> Step:
    target, sign, size = inst.args
    return machine.compute(target, inst.type, lambda x, y: np.copysign(y, x), (sign, inst.type), (size, inst.type))


def reciprocal(x: np.ndarray) -> np.ndarray:
    return x.dtype.type(1) / x


def reciprocal_root(x: np.ndarray) -> np.ndarray:
    return x.dtype.type(1) / np.sqrt(x)


UNARY: dict[str, Function] = {
    "abs": np.abs,
    "neg": np.negative,
    "rcp": reciprocal,
    "sqrt": np.sqrt,
    "rsqrt": reciprocal_root,
    "sin": np.sin,
    "cos": np.cos,
    "lg2": np.log2,
    "ex2": np.exp2,
    "tanh": np.tanh,
}


@builds(*UNARY, of=FLOATING)
def unary(machine: Registers, inst: Inst) -> Step:
    target, a = inst.args
    single = inst.type == "f32"
    flushes = single and "ftz" in inst.modifiers
    widens = single and inst.op in ("rsqrt", "rcp") and rounding(inst) is None
    of_normal = rounded(UNARY[inst.op], inst)

    def function(x: np.ndarray) -> np.ndarray:
        x = numerics.flush(x) if flushes else x
        return of_normal(x.astype(F64)).astype(F32) if widens else of_normal(x)

    return machine.compute(target, inst.type, finished(function, inst), (a, inst.type))
