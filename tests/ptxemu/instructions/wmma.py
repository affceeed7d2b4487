"""wmma of f16, bf16 and tf32. Which lane holds which element is not told by CUDA; here it is the emulator's choice."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import numerics, tensor_core
from ..builder import builds, unsupported
from ..memory.addresses import Access, Kind
from ..memory.spaces import address_getter
from ..operands import Inst, items
from ..types import F16, F32, RAW, S64, U16, Mask, Step
from .mma import shape_of

if TYPE_CHECKING:
    from ..machine import Machine

BYTES = {"f16": 2, "bf16": 2, "tf32": 4, "f32": 4}


def types_of(inst: Inst) -> list[str]:
    return [x for x in inst.modifiers if x in BYTES]


class Fragment(NamedTuple):
    """Elements of a matrix in registers: [elements of a lane, 32] their rows and columns."""

    type: str
    shape: tuple[int, int]
    registers: list[Any]
    in_a_register: int
    held: int  # elements of a lane, which may hold some twice
    rows: np.ndarray
    columns: np.ndarray


def fragment(inst: Inst, which: str, type_: str, operand: Any) -> Fragment:
    M, N, K = shape_of(inst)
    shape = {"a": (M, K), "b": (K, N)}.get(which, (M, N))
    registers = items(operand)
    in_a_register = 4 // BYTES[type_]
    held, needed = len(registers) * in_a_register, shape[0] * shape[1] // 32
    if held % needed:
        raise unsupported(inst, "fragment size")
    elements = np.arange(needed)[:, None] * 32 + np.arange(32)
    return Fragment(type_, shape, registers, in_a_register, held, elements // shape[1], elements % shape[1])


@builds("wmma")
def wmma(machine: "Machine", inst: Inst) -> Step:
    if not types_of(inst) or {"s8", "u8", "s32", "f64"} & set(inst.modifiers):
        raise unsupported(inst)
    return {"mma": multiply, "load": load, "store": store}[inst.modifiers[0]](machine, inst)


def element_addresses(machine: "Machine", inst: Inst, part: Fragment, memory: Any, stride: list[Any]) -> Any:
    """Getter of [elements, threads]: all lanes use the address of the first."""
    get_base = address_getter(machine, memory)
    get_stride = machine.array(stride[0], "b32") if stride else None
    by_rows = "row" in inst.modifiers
    outer, inner = (part.rows, part.columns) if by_rows else (part.columns, part.rows)
    outer, inner = (np.tile(x, (1, machine.warps)) for x in (outer, inner))

    def get() -> np.ndarray:
        base = np.repeat(get_base().reshape(-1, 32)[:, 0], 32)
        step = get_stride().astype(S64) if get_stride is not None else part.shape[by_rows]
        return base + (outer * step + inner) * BYTES[part.type]

    return get


def load(machine: "Machine", inst: Inst) -> Step:
    target, memory, *stride = inst.args
    part = fragment(inst, inst.modifiers[1], types_of(inst)[-1], target)
    get_addresses = element_addresses(machine, inst, part, memory, stride)
    access = Access(inst, Kind.READ)
    setters = [machine.setter(x, "b32") for x in part.registers]
    raw = RAW[8 * BYTES[part.type]]

    def step(mask: Mask) -> None:
        active = machine.active(mask)
        addresses = get_addresses()
        threads = machine.all_threads if active is None else active
        elements = np.zeros(addresses.shape, raw)
        with machine.profiler.paused():  # the order is not that of hardware
            for row, wanted in zip(elements, addresses[:, threads], strict=True):
                row[threads] = machine.spaces.read(inst.space, access, wanted, BYTES[part.type], 1, threads)[0]
        elements = elements[np.arange(part.held) % len(elements)]
        words = elements.reshape(-1, part.in_a_register, machine.threads).swapaxes(1, 2)
        for put, x in zip(setters, np.ascontiguousarray(words).view("u4"), strict=True):
            put(x.reshape(-1), mask)

    return step


def elements_getter(machine: "Machine", part: Fragment) -> Any:
    """Getter of [elements, threads]"""
    getters = [machine.array(x, "b32") for x in part.registers]
    raw = RAW[8 * BYTES[part.type]]

    def get() -> np.ndarray:
        words = np.stack([get() for get in getters])
        elements = words.view(raw).reshape(len(getters), machine.threads, -1).swapaxes(1, 2)
        return np.ascontiguousarray(elements.reshape(-1, machine.threads)[: len(part.rows)])

    return get


def store(machine: "Machine", inst: Inst) -> Step:
    memory, source, *stride = inst.args
    part = fragment(inst, inst.modifiers[1], types_of(inst)[-1], source)
    get_addresses = element_addresses(machine, inst, part, memory, stride)
    get_elements = elements_getter(machine, part)
    access = Access(inst, Kind.WRITE)

    def step(mask: Mask) -> None:
        active = machine.active(mask)
        threads = machine.all_threads if active is None else active
        with machine.profiler.paused():
            for addresses, x in zip(get_addresses(), get_elements(), strict=True):
                machine.spaces.write(inst.space, access, addresses[threads], BYTES[part.type], [x[threads]], threads)

    return step


def decode(elements: np.ndarray, type_: str) -> np.ndarray:
    if type_ == "tf32":
        return numerics.tf32(elements)
    if type_ == "bf16":
        return numerics.bf16_to_f32(elements)
    return elements.view(F16).astype(F32) if type_ == "f16" else elements.view(F32)


def multiply(machine: "Machine", inst: Inst) -> Step:
    types = types_of(inst)
    to, a, _, of = types if len(types) == 4 else (types[0], "f16", "f16", types[1])
    D, A, B, C = inst.args[:4]
    target = fragment(inst, "d", to, D)
    parts = [fragment(inst, which, type_, x) for which, type_, x in (("a", a, A), ("b", a, B), ("c", of, C))]
    getters = [elements_getter(machine, part) for part in parts]
    setters = [machine.setter(x, "b32") for x in target.registers]

    def matrix(part: Fragment, elements: np.ndarray) -> np.ndarray:
        """[rows, columns, warps]"""
        result = np.empty((*part.shape, machine.warps), F32)
        values = decode(elements, part.type).reshape(-1, machine.warps, 32)
        result[part.rows, part.columns] = values.swapaxes(1, 2)
        return result

    def step(mask: Mask) -> None:
        left, right, summand = (matrix(part, get()) for part, get in zip(parts, getters, strict=True))
        total = tensor_core.multiply_add(np.ascontiguousarray(left.swapaxes(0, 1)), right, summand, a)
        elements = total[target.rows, target.columns].swapaxes(1, 2).reshape(-1, machine.threads)
        elements = elements.astype(F16).view(U16) if to == "f16" else np.ascontiguousarray(elements)
        words = elements.reshape(len(setters), -1, machine.threads).swapaxes(1, 2)
        for put, x in zip(setters, np.ascontiguousarray(words).view("u4"), strict=True):
            put(x.reshape(-1), mask)

    return step
