"""cvt: between integers and floats of all sizes."""

from typing import Any

import numpy as np

from .. import numerics
from ..builder import Registers, builds, unsupported
from ..operands import Inst
from ..types import BITS, F16, F32, F64, FLOATS, NUMPY, U16, U32, Mask, Step

ROUNDINGS = ("rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi")


@builds("cvt")
def convert(machine: Registers, inst: Inst) -> Step:
    if len(inst.types) != 2 or "pack" in inst.modifiers:
        raise unsupported(inst)
    to, of = inst.types
    if to in ("f16x2", "bf16x2") and of == "f32":
        return pack_halves(machine, inst)
    if to == "tf32":
        return round_to_tf32(machine, inst)
    get = machine.array(inst.args[1], of)
    # halves are rounded here, not by the setter: once, and as the instruction says
    store = machine.setter(inst.args[0], "b16" if to in ("f16", "bf16") else to)
    if of in FLOATS:
        function = float_to_float(inst) if to in FLOATS else float_to_int(inst)
    else:
        function = int_to_float(inst) if to in FLOATS else int_to_int(inst)
    return lambda mask: store(function(get()), mask)


def int_to_int(inst: Inst) -> Any:
    dtype = NUMPY[inst.types[0]]
    if "sat" in inst.modifiers:
        return lambda x: numerics.saturate_int(x, dtype)
    return lambda x: x.astype(dtype)


def int_to_float(inst: Inst) -> Any:
    to, of = inst.types
    mode = inst.one_of("rz", "rm", "rp")
    if to == "bf16":
        return lambda x: numerics.f64_to_bf16(x.astype(F64))
    if to == "f16":
        return lambda x: numerics.round_to(x.astype(F64), F16, mode).view(U16)
    dtype = NUMPY[to]
    if mode is None or to == "f64":
        return lambda x: x.astype(dtype)
    exact = np.longdouble if BITS[of] == 64 else F64
    return lambda x: numerics.directed(x.astype(exact), dtype, mode)


def float_to_int(inst: Inst) -> Any:
    to, of = inst.types
    dtype, mode = NUMPY[to], inst.one_of(*ROUNDINGS)
    if "ftz" in inst.modifiers and of == "f32":
        return lambda x: numerics.to_int(numerics.flush(x), dtype, mode)
    return lambda x: numerics.to_int(x, dtype, mode)


def float_to_float(inst: Inst) -> Any:
    to, of = inst.types
    mode = inst.one_of(*ROUNDINGS)
    before: list[Any] = [numerics.flush] if "ftz" in inst.modifiers and of == "f32" else []
    before += [numerics.WHOLE[mode]] if mode in numerics.WHOLE else []
    before += [numerics.saturate] if "sat" in inst.modifiers else []
    before += [numerics.relu] if "relu" in inst.modifiers else []

    def narrow(x: np.ndarray) -> np.ndarray:
        if to == "f16":
            return numerics.round_to(x, F16, mode).view(U16)
        if to == "bf16":
            if mode == "rz":
                return numerics.f32_to_bf16_rz(x.astype(F32))
            return numerics.f64_to_bf16(x) if of == "f64" else numerics.f32_to_bf16(x)
        if to == "f32" and of == "f64":
            x = numerics.round_to(x, F32, mode)
            return numerics.flush(x) if "ftz" in inst.modifiers else x
        return x.astype(NUMPY[to], copy=False)

    def function(x: np.ndarray) -> np.ndarray:
        for step in before:
            x = step(x)
        return narrow(x)

    return function if before else narrow


def pack_halves(machine: Registers, inst: Inst) -> Step:
    """Two float32 to a pair of halves, the first operand in the upper one."""
    target, high, low = inst.args
    to, towards_zero = inst.types[0], "rz" in inst.modifiers
    get_high, get_low = machine.array(high, "f32"), machine.array(low, "f32")
    store = machine.setter(target, "b32")
    limit = F32(65504.0) if to == "f16x2" else F32(3.3895314e38)

    def halves(x: np.ndarray) -> np.ndarray:
        if "relu" in inst.modifiers:
            x = numerics.relu(x)
        if "satfinite" in inst.modifiers:
            x = np.where(np.isnan(x), x, np.clip(x, -limit, limit))
        if to == "f16x2":
            return numerics.round_to(x, F16, "rz" if towards_zero else None).view(U16)
        return numerics.f32_to_bf16_rz(x) if towards_zero else numerics.f32_to_bf16(x)

    def step(mask: Mask) -> None:
        both = np.empty((machine.threads, 2), U16)
        both[:, 0], both[:, 1] = halves(get_low()), halves(get_high())
        store(both.view(U32).reshape(-1), mask)

    return step


def round_to_tf32(machine: Registers, inst: Inst) -> Step:
    get = machine.array(inst.args[1], "f32")
    store = machine.setter(inst.args[0], "b32")
    away = "rna" in inst.modifiers
    return lambda mask: store(numerics.f32_to_tf32(get(), away), mask)
