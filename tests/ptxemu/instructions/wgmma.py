"""wgmma: products of 64 rows by four warps, whose right sides, and maybe left ones, lie in shared memory.

Computed when it is issued; machine/warpgroups.py knows what is under way. A warp that comes alone computes its 16 rows.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import tensor_core
from ..builder import builds, unsupported
from ..errors import DivergenceError
from ..memory.addresses import Access, Kind
from ..memory.matrices import CHUNK, Descriptor
from ..operands import Imm, Inst, Vec, items
from ..types import F16, F32, U32, Mask, Step
from .mma import decode, gather_a, shape_of

if TYPE_CHECKING:
    from ..machine import Machine

SIZES = {"f16": 2, "bf16": 2, "tf32": 4}  # of elements, bytes


class Form(NamedTuple):
    """Of an instruction."""

    N: int
    K: int
    to: str  # f32 or f16
    of: str
    signs: tuple[int, int]
    transposed: tuple[bool, bool]


@builds("wgmma")
def wgmma(machine: "Machine", inst: Inst) -> Step:
    kind, groups = inst.modifiers[0], machine.warpgroups
    if kind == "fence":
        return lambda mask: groups.fence(machine.warps_of(mask))
    if kind == "commit_group":
        return lambda mask: groups.commit(machine.warps_of(mask))
    if kind == "wait_group":
        pending = inst.args[0].value
        return lambda mask: groups.wait(machine.warps_of(mask), pending)
    if kind == "mma_async":
        return multiply(machine, inst)
    raise unsupported(inst)


def form_of(inst: Inst) -> Form:
    M, N, K = shape_of(inst)
    types = [x for x in inst.modifiers if x in (*SIZES, "f32")]
    if M != 64 or len(types) != 3 or types[1] not in SIZES or "sp" in inst.modifiers:
        raise unsupported(inst)
    to, of, _ = types
    numbers = [x.value for x in inst.args[4:] if isinstance(x, Imm)]
    transposed = [bool(x) for x in numbers[2:]]
    if isinstance(inst.args[1], Vec):
        transposed = [False, *transposed]
    a, b = [*transposed, False, False][:2]
    return Form(N, K, to, of, (numbers[0], numbers[1]), (a, b))


class Units(NamedTuple):
    """Of the warps that execute it: whole warpgroups, or single warps."""

    threads: np.ndarray  # [units, 128 or 32], of the batch
    rows: int  # 64 or 16
    places: np.ndarray  # of the warps in their warpgroups, [units]; 0 of whole ones


def units_of(machine: "Machine", mask: Mask) -> Units:
    warps = machine.warps_of(mask)
    program, within = np.divmod(warps, machine.cta_warps)
    first = program * machine.cta_warps + within // 4 * 4
    groups, counts = np.unique(first, return_counts=True)
    if (counts == 4).all():
        return Units(groups[:, None] * 32 + np.arange(128), 64, np.zeros(len(groups), np.int64))
    return Units(warps[:, None] * 32 + np.arange(32), 16, within % 4)


def multiply(machine: "Machine", inst: Inst) -> Step:
    form = form_of(inst)
    D = items(inst.args[0])
    if len(D) != form.N // (2 if form.to == "f32" else 4):
        raise unsupported(inst)
    get_d, scatter = [machine.array(x, "b32") for x in D], [machine.scatterer(x, "b32") for x in D]
    get_scale = machine.array(inst.args[3], "pred")
    get_a, get_b = left_side(machine, inst, form), right_side(machine, inst, form)
    groups = machine.warpgroups
    place = groups.registers_of(inst)

    def step(mask: Mask) -> None:
        units = units_of(machine, mask)
        groups.check(inst, place, machine.warps_of(mask))
        ticks = groups.issue(inst, place, units.threads[:, ::32] // 32)
        a, b = get_a(units, ticks), get_b(units, ticks)  # [units, M, K], [units, K, N]
        registers = [get() for get in get_d]
        c = groups.accumulators.get(registers, units.threads)
        if c is None:
            c = to_matrix(np.array([x[units.threads] for x in registers]), form)
        added = get_scale()[units.threads[:, 0]]
        if not added.all():
            c = np.where(added[:, None, None], c, F32(0))
        sums = tensor_core.multiply_add_units(a, b, c, form.of)
        if form.to == "f16":
            sums = sums.astype(F16).astype(F32)
        new = to_registers(sums, form)
        everyone = units.threads.size == machine.threads
        for store, x in zip(scatter, new, strict=True):
            store(x, None if everyone else units.threads.reshape(-1))
        groups.accumulators.keep([get() for get in get_d], units.threads, sums)

    return step


# Of the accumulator, lane = 4 * group + place: part of 8 columns, half of the rows, element; warp, group, place.


def to_matrix(registers: np.ndarray, form: Form) -> np.ndarray:
    """[registers, units, threads] to [units, M, N]"""
    _, units, threads = registers.shape
    if form.to == "f16":
        halves = np.moveaxis(decode(registers, "f16"), -1, 1)  # [registers, elements, units, threads]
        registers = np.ascontiguousarray(halves).reshape(-1, units, threads)
    parts = registers.view(F32).reshape(form.N // 8, 2, 2, units, threads // 32, 8, 4)
    return np.ascontiguousarray(parts.transpose(3, 4, 1, 5, 0, 6, 2)).reshape(units, threads // 2, form.N)


def to_registers(sums: np.ndarray, form: Form) -> np.ndarray:
    """[units, M, N] to [registers, threads of all units]"""
    units, M, _ = sums.shape
    parts = sums.reshape(units, M // 16, 2, 8, form.N // 8, 4, 2).transpose(4, 2, 6, 0, 1, 3, 5)
    if form.to == "f32":
        return np.ascontiguousarray(parts).reshape(form.N // 2, -1).view(U32)
    pairs = np.ascontiguousarray(np.moveaxis(parts, 2, -1).astype(F16))
    return pairs.view(U32).reshape(form.N // 4, -1)


Side = Callable[[Units, np.ndarray], np.ndarray]


def left_side(machine: "Machine", inst: Inst, form: Form) -> Side:
    """[units, M, K]"""
    A, sign = inst.args[1], F32(form.signs[0])
    if not isinstance(A, Vec):
        read = reader(machine, inst, A, form, form.transposed[0])

        def from_memory(units: Units, ticks: np.ndarray) -> np.ndarray:
            if units.rows == 64:
                return read(units, ticks, np.arange(64)) * sign
            parts = [
                read(Units(units.threads[k : k + 1], 16, units.places), ticks[k : k + 1], np.arange(16) + 16 * place)
                for k, place in enumerate(units.places.tolist())
            ]
            return np.concatenate(parts) * sign

        return from_memory
    getters = [machine.array(x, "b32") for x in A.items]
    if len(getters) != 4:
        raise unsupported(inst)

    def from_registers(units: Units, ticks: np.ndarray) -> np.ndarray:
        words = [get()[units.threads].reshape(-1) for get in getters]
        rows = gather_a(words, 16, form.K, form.of)  # [K, 16, warps]
        return np.ascontiguousarray(rows.transpose(2, 1, 0)).reshape(len(units.threads), units.rows, form.K) * sign

    return from_registers


def right_side(machine: "Machine", inst: Inst, form: Form) -> Side:
    """[units, K, N]"""
    read = reader(machine, inst, inst.args[2], form, form.transposed[1])
    rows, sign = np.arange(form.N), F32(form.signs[1])
    return lambda units, ticks: read(units, ticks, rows).swapaxes(1, 2) * sign


def reader(
    machine: "Machine", inst: Inst, operand: Any, form: Form, transposed: bool
) -> Callable[[Units, np.ndarray, np.ndarray], np.ndarray]:
    """Of rows of a matrix in shared memory: [units, rows, K]"""
    get, access = machine.array(operand, "b64"), Access(inst, Kind.READ)
    size, memory = SIZES[form.of], machine.shared

    def read(units: Units, ticks: np.ndarray, rows: np.ndarray) -> np.ndarray:
        words = get()[units.threads]
        if (words != words[:, :1]).any():
            thread = int(units.threads[(words != words[:, :1]).any(1)][0, 0])
            raise DivergenceError("threads of a warpgroup with different descriptors of one wgmma", thread)
        addresses = Descriptor.of(words[:, 0]).chunks(rows, form.K, size, transposed)  # [units, .., ..]
        of_each = addresses[0].size
        threads = np.repeat(units.threads[:, 0], of_each)
        offsets = memory.offsets(access, addresses.reshape(-1), CHUNK, threads, "wgmma read")
        columns = np.repeat(machine.warpgroups.columns(units.threads[:, 0] // 32), of_each)
        memory.read_by_agent(access, offsets, CHUNK, threads, columns, np.repeat(ticks, of_each))
        found = decode(memory.bytes.vectors[4, 4][offsets >> 4], form.of)  # [chunks, words, elements]
        found = found.reshape(*addresses.shape, -1)
        if transposed:
            return found.transpose(0, 1, 3, 2).reshape(len(addresses), len(rows), form.K)
        return found.reshape(len(addresses), len(rows), form.K)

    return read
