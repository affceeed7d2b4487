"""Fields of bits, shifts, permutations of bytes, lop3."""

import functools
from collections.abc import Callable

import numpy as np

from ..builder import Registers, builds, unsupported
from ..operands import Imm, Inst, Pair
from ..types import BITS, NUMPY, RAW, S64, SIGNED, U8, U32, U64, Step

REVERSED = np.array([int(f"{i:08b}"[::-1], 2) for i in range(256)], U8)
ALL = U64(0xFFFFFFFFFFFFFFFF)


@builds("brev")
def reverse(machine: Registers, inst: Inst) -> Step:
    target, a = inst.args

    def function(x: np.ndarray) -> np.ndarray:
        backwards = np.ascontiguousarray(x).view(U8).reshape(-1, x.dtype.itemsize)[:, ::-1]
        return np.ascontiguousarray(REVERSED[backwards]).view(x.dtype).reshape(-1)

    return machine.compute(target, inst.type, function, (a, inst.type))


def low_bits(count: np.ndarray) -> np.ndarray:
    """Masks of so many bits, at most 64."""
    return np.where(count >= U64(64), ALL, (U64(1) << np.minimum(count, U64(63))) - U64(1))


@builds("bfe")
def extract(machine: Registers, inst: Inst) -> Step:
    target, a, position, length = inst.args
    dtype, bits = NUMPY[inst.type], BITS[inst.type]
    constant = isinstance(position, Imm) and isinstance(length, Imm) and inst.type not in SIGNED
    if constant and 0 <= position.value < bits and 0 < length.value < bits:  # the common case
        shift, field = dtype(position.value), dtype((1 << length.value) - 1)
        return machine.compute(target, inst.type, lambda x: (x >> shift) & field, (a, inst.type))

    def unsigned(x: np.ndarray, position: np.ndarray, length: np.ndarray) -> np.ndarray:
        position = (position & U32(0xFF)).astype(U64)
        length = np.minimum((length & U32(0xFF)).astype(U64), U64(bits))
        shifted = np.where(position > U64(63), U64(0), x.astype(U64) >> np.minimum(position, U64(63)))
        return (shifted & low_bits(length)).astype(dtype)

    def signed(x: np.ndarray, position: np.ndarray, length: np.ndarray) -> np.ndarray:
        length = np.minimum((length & U32(0xFF)).astype(S64), bits)
        shifted = x.astype(S64) >> np.minimum((position & U32(0xFF)).astype(S64), 63)
        unused = np.minimum(64 - length, 63)
        return np.where(length == 0, S64(0), (shifted << unused) >> unused).astype(dtype)

    function = signed if inst.type in SIGNED else unsigned
    return machine.compute(target, inst.type, function, (a, inst.type), (position, "u32"), (length, "u32"))


@builds("bfi")
def insert(machine: Registers, inst: Inst) -> Step:
    target, a, b, position, length = inst.args
    bits = BITS[inst.type]
    get_a, get_b = machine.values((a, inst.type), (b, inst.type))
    get_position, get_length = machine.values((position, "u32"), (length, "u32"))
    store = machine.setter(target, inst.type)

    def function(x: np.ndarray, y: np.ndarray, position: np.ndarray, length: np.ndarray) -> np.ndarray:
        position = (position & U32(0xFF)).astype(U64)
        field = low_bits((length & U32(0xFF)).astype(U64))
        shift = np.minimum(position, U64(63))
        field = np.where(position > U64(bits - 1), U64(0), field << shift)
        return ((y.astype(U64) & ~field) | ((x.astype(U64) << shift) & field)).astype(RAW[bits])

    return lambda mask: store(function(get_a(), get_b(), get_position(), get_length()), mask)


@builds("bmsk")
def mask(machine: Registers, inst: Inst) -> Step:
    """So many bits from a position on."""
    target, position, length = inst.args
    wraps = "wrap" in inst.modifiers

    def function(position: np.ndarray, length: np.ndarray) -> np.ndarray:
        position, length = (x & U32(31) if wraps else np.minimum(x, U32(32)) for x in (position, length))
        return (low_bits(length.astype(U64)) << position.astype(U64)).astype(U32)

    return machine.compute(target, "b32", function, (position, "u32"), (length, "u32"))


@builds("shl", "shr")
def shift(machine: Registers, inst: Inst) -> Step:
    """By more than the width: all bits are gone, or copies of the sign."""
    target, a, by = inst.args
    bits, dtype = BITS[inst.type], NUMPY[inst.type]
    moved: Callable[..., np.ndarray] = np.left_shift if inst.op == "shl" else np.right_shift
    keeps_sign = inst.op == "shr" and inst.type in SIGNED
    if isinstance(by, Imm):
        amount = by.value & 0xFFFFFFFF
        if amount >= bits and not keeps_sign:
            return machine.compute(target, inst.type, np.zeros_like, (a, inst.type))
        constant = dtype(min(amount, bits - 1))
        return machine.compute(target, inst.type, lambda x: moved(x, constant), (a, inst.type))

    def function(x: np.ndarray, amount: np.ndarray) -> np.ndarray:
        result = moved(x, np.minimum(amount, U32(bits - 1)).astype(dtype))
        return result if keeps_sign else np.where(amount >= U32(bits), dtype(0), result)

    return machine.compute(target, inst.type, function, (a, inst.type), (by, "u32"))


@builds("shf")
def funnel_shift(machine: Registers, inst: Inst) -> Step:
    target, low, high, by = inst.args
    left, wraps = inst.modifiers[0] == "l", "wrap" in inst.modifiers

    def function(low: np.ndarray, high: np.ndarray, amount: np.ndarray) -> np.ndarray:
        amount = ((amount & U32(31)) if wraps else np.minimum(amount, U32(32))).astype(U64)
        both = (high.astype(U64) << U64(32)) | low.astype(U64)
        return ((both << amount) >> U64(32) if left else both >> amount).astype(U32)

    return machine.compute(target, "b32", function, (low, "b32"), (high, "b32"), (by, "u32"))


@builds("prmt")
def permute_bytes(machine: Registers, inst: Inst) -> Step:
    target, a, b, selector = inst.args
    if inst.one_of("f4e", "b4e", "rc8", "ecl", "ecr", "rc16"):
        raise unsupported(inst)
    if isinstance(selector, Imm) and not selector.value & 0x8888:  # the common case: constant, no signs
        chosen = [(selector.value >> (4 * i)) & 7 for i in range(4)]

        def constant(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            both = np.empty((max(np.size(x), np.size(y)), 2), U32)
            both[:, 0] = x
            both[:, 1] = y
            return np.ascontiguousarray(both.view(U8)[:, chosen]).view(U32).reshape(-1)

        return machine.compute(target, "b32", constant, (a, "b32"), (b, "b32"))

    def function(x: np.ndarray, y: np.ndarray, selector: np.ndarray) -> np.ndarray:
        both = (y.astype(U64) << U64(32)) | x.astype(U64)
        result = U64(0)
        for i in range(4):
            choice = ((selector >> U32(4 * i)) & U32(15)).astype(U64)
            byte = (both >> (U64(8) * (choice & U64(7)))) & U64(255)
            sign = np.where(byte >= U64(128), U64(255), U64(0))
            result = result | np.where(choice >= U64(8), sign, byte) << U64(8 * i)
        return result.astype(U32)

    return machine.compute(target, "b32", function, (a, "b32"), (b, "b32"), (selector, "b32"))


# By the table of results, where that is shorter than the sum of its ones.
LOP3 = {
    0x80: lambda a, b, c: a & b & c,
    0xFE: lambda a, b, c: a | b | c,
    0x96: lambda a, b, c: a ^ b ^ c,
    0xF8: lambda a, b, c: a | (b & c),
    0xE0: lambda a, b, c: a & (b | c),
    0xEA: lambda a, b, c: (a & b) | c,
    0xCA: lambda a, b, c: (a & b) | (~a & c),
    0x6A: lambda a, b, c: (a & b) ^ c,
    0xE8: lambda a, b, c: (a & b) | (c & (a | b)),
    0x78: lambda a, b, c: a ^ (b & c),
    0xB8: lambda a, b, c: (a & ~b) | (b & c),
}


def lop3_of_table(table: int) -> Callable[..., np.ndarray]:
    def function(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        ones = []
        not_a, not_b, not_c = ~a, ~b, ~c
        for i in range(8):
            if table >> i & 1:
                ones.append((a if i & 4 else not_a) & (b if i & 2 else not_b) & (c if i & 1 else not_c))
        return functools.reduce(np.bitwise_or, ones, a & not_a)

    return function


@builds("lop3")
def lop3(machine: Registers, inst: Inst) -> Step:
    if len(inst.args) != 5 or isinstance(inst.args[0], Pair):
        raise unsupported(inst)
    target, a, b, c, table = inst.args
    function = LOP3.get(table.value & 0xFF) or lop3_of_table(table.value & 0xFF)
    return machine.compute(target, "b32", function, (a, "b32"), (b, "b32"), (c, "b32"))
