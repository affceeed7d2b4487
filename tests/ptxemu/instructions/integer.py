"""Integer arithmetic; sums and products with a carry."""

from collections.abc import Callable

import numpy as np

from ..builder import Registers, builds
from ..operands import Inst
from ..types import BITS, NUMPY, RAW, S32, S64, U32, U64, Mask, Step

INTEGERS = ("other",)
WIDER = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64", "b16": "u32", "b32": "u64"}


@builds("add", "sub", of=INTEGERS)
def add(machine: Registers, inst: Inst) -> Step:
    type_ = inst.type
    if "cc" in inst.modifiers:
        return add_with_carry(machine, inst)
    target, a, b = inst.args
    function: Callable[..., np.ndarray] = np.add if inst.op == "add" else np.subtract
    exact = function
    if "sat" in inst.modifiers:

        def function(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return np.clip(exact(x.astype(S64), y.astype(S64)), -(2**31), 2**31 - 1).astype(S32)

    return machine.compute(target, type_, function, (a, type_), (b, type_))


def sum_and_carry(x: np.ndarray, y: np.ndarray, carried: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    result = x + y
    carry = result < x
    if carried is not None:
        before, result = result, result + carried.astype(x.dtype)
        carry |= result < before
    return result, carry


@builds("addc", "subc")
def add_with_carry(machine: Registers, inst: Inst) -> Step:
    """Reads the carry flag if the opcode ends in c, writes it with .cc."""
    target, a, b = inst.args
    bits = f"b{BITS[inst.type]}"
    raw = RAW[BITS[inst.type]]
    get_a, get_b = machine.values((a, bits), (b, bits))
    store = machine.setter(target, bits)
    R, flag = machine.R, machine.carry
    reads, writes, subtracts = inst.op.endswith("c"), "cc" in inst.modifiers, inst.op.startswith("sub")

    def step(mask: Mask) -> None:
        x, y = get_a(), get_b()
        if subtracts:
            result = x - y
            carry = x < y
            if reads:
                carry |= (x == y) & R[flag]
                result = result - R[flag].astype(raw)
        else:
            result, carry = sum_and_carry(x, y, R[flag] if reads else None)
        store(result, mask)
        if writes:
            R[flag] = carry if mask is None else np.where(mask, carry, R[flag])

    return step


def high_product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The upper half of the product."""
    dtype = np.result_type(x, y)
    if dtype.itemsize < 8:
        wide = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}").type
        return (x.astype(wide) * y.astype(wide) >> wide(8 * dtype.itemsize)).astype(dtype)
    a, b = x.view(U64), y.view(U64)
    low, half = U64(0xFFFFFFFF), U64(32)
    a_low, a_high, b_low, b_high = a & low, a >> half, b & low, b >> half
    middle = a_high * b_low + ((a_low * b_low) >> half)
    carry = a_low * b_high + (middle & low)
    high = a_high * b_high + (middle >> half) + (carry >> half)
    if dtype.kind == "u":
        return high
    return (high - np.where(x < 0, b, U64(0)) - np.where(y < 0, a, U64(0))).view(S64)


@builds("mul", "mad", of=INTEGERS)
def multiply(machine: Registers, inst: Inst) -> Step:
    if "cc" in inst.modifiers:
        return multiply_add_with_carry(machine, inst)
    type_, wide = inst.type, inst.type
    target, a, b, *c = inst.args
    product: Callable[..., np.ndarray] = np.multiply
    if "hi" in inst.modifiers:
        product = high_product
    elif "wide" in inst.modifiers:
        wide = WIDER[type_]
        dtype = NUMPY[wide]

        def product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return x.astype(dtype) * y.astype(dtype)

    if not c:
        return machine.compute(target, wide, product, (a, type_), (b, type_))
    return machine.compute(target, wide, lambda x, y, z: product(x, y) + z, (a, type_), (b, type_), (c[0], wide))


@builds("madc")
def multiply_add_with_carry(machine: Registers, inst: Inst) -> Step:
    target, a, b, c = inst.args
    bits = BITS[inst.type]
    raw = RAW[bits]
    get_a, get_b = machine.values((a, inst.type), (b, inst.type))
    get_c = machine.value(c, f"b{bits}")
    store = machine.setter(target, f"b{bits}")
    R, flag = machine.R, machine.carry
    reads, writes = inst.op == "madc", "cc" in inst.modifiers
    product = high_product if "hi" in inst.modifiers else np.multiply

    def step(mask: Mask) -> None:
        first = product(get_a(), get_b()).view(raw)
        result, carry = sum_and_carry(first, get_c(), R[flag] if reads else None)
        store(result, mask)
        if writes:
            R[flag] = carry if mask is None else np.where(mask, carry, R[flag])

    return step


def divide_towards_zero(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    quotient = x // y
    if x.dtype.kind == "u":
        return quotient
    return quotient + ((x != quotient * y) & ((x < 0) ^ (y < 0))).astype(x.dtype)


BINARY: dict[str, Callable[..., np.ndarray]] = {
    "div": divide_towards_zero,
    "rem": np.fmod,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}
UNARY: dict[str, Callable[..., np.ndarray]] = {"abs": np.abs, "neg": np.negative, "not": np.invert}


@builds(*BINARY, of=INTEGERS)
def binary(machine: Registers, inst: Inst) -> Step:
    target, a, b = inst.args
    return machine.compute(target, inst.type, BINARY[inst.op], (a, inst.type), (b, inst.type))


@builds(*UNARY, of=INTEGERS)
def unary(machine: Registers, inst: Inst) -> Step:
    target, a = inst.args
    return machine.compute(target, inst.type, UNARY[inst.op], (a, inst.type))


def bit_length(x: np.ndarray) -> np.ndarray:
    """Significant bits of unsigned numbers."""
    if x.dtype.itemsize < 8:
        return np.frexp(x.astype(np.float64))[1].astype(S64)
    high, low = x >> U64(32), x & U64(0xFFFFFFFF)
    length = np.where(high != 0, np.frexp(high.astype(np.float64))[1] + 32, np.frexp(low.astype(np.float64))[1])
    return length.astype(S64)


@builds("popc")
def count_bits(machine: Registers, inst: Inst) -> Step:
    target, a = inst.args
    return machine.compute(target, "u32", lambda x: np.bitwise_count(x).astype(U32), (a, inst.type))


@builds("clz")
def count_leading_zeros(machine: Registers, inst: Inst) -> Step:
    target, a = inst.args
    bits = BITS[inst.type]
    return machine.compute(target, "u32", lambda x: (bits - bit_length(x)).astype(U32), (a, inst.type))


@builds("bfind")
def find_highest_bit(machine: Registers, inst: Inst) -> Step:
    """Its number, counted from the other end with .shiftamt; of negative numbers the highest 0."""
    target, a = inst.args
    bits = BITS[inst.type]
    shift_amount = "shiftamt" in inst.modifiers

    def find(x: np.ndarray) -> np.ndarray:
        if x.dtype.kind == "i":
            x = np.where(x < 0, ~x, x).view(RAW[bits])
        place = bit_length(x) - 1
        if shift_amount:
            place = np.where(place < 0, place, bits - 1 - place)
        return place.astype(S32).view(U32)

    return machine.compute(target, "u32", find, (a, inst.type))
