"""wgmma: products of 64 rows by four warps, whose right sides, and maybe left ones, lie in shared memory.

Computed when it is issued; machine/warpgroups.py knows what is under way. The threads of the warpgroups that come
together are [groups, 128].
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import tensor_core
from ..builder import builds, unsupported
from ..errors import DivergenceError
from ..machine.control import Jump
from ..machine.warpgroups import together
from ..memory.addresses import Access, Kind
from ..memory.matrices import CHUNK, Descriptor
from ..operands import Imm, Inst, Vec, items
from ..types import F16, F32, U32, Step
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
def wgmma(machine: "Machine", inst: Inst) -> Step | Jump:
    kind, groups = inst.modifiers[0], machine.warpgroups
    if kind == "fence":
        return lambda mask: groups.fence(machine.warps_of(mask))
    if kind == "commit_group":
        return lambda mask: groups.commit(machine.warps_of(mask))
    if kind == "wait_group":
        pending = inst.args[0].value
        return lambda mask: groups.wait(machine.warps_of(mask), pending)
    if kind == "mma_async":
        return together(machine, inst, multiply(machine, inst))
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


def multiply(machine: "Machine", inst: Inst) -> Callable[[np.ndarray], None]:
    form = form_of(inst)
    D = items(inst.args[0])
    if len(D) != form.N // (2 if form.to == "f32" else 4):
        raise unsupported(inst)
    get_d, scatter = [machine.array(x, "b32") for x in D], [machine.scatterer(x, "b32") for x in D]
    get_scale = machine.array(inst.args[3], "pred")
    get_a, get_b = left_side(machine, inst, form), right_side(machine, inst, form)
    groups = machine.warpgroups
    product = groups.product_of(inst)

    def act(threads: np.ndarray) -> None:
        groups.check(inst, product, threads[:, ::32].reshape(-1) // 32)
        ticks = groups.issue(inst, product, threads[:, ::32] // 32)
        a, b = get_a(threads, ticks), get_b(threads, ticks)  # [groups, 64, K], [groups, K, N]
        registers = [get() for get in get_d]
        c = groups.accumulators.get(registers, threads)
        if c is None:
            c = to_matrix(np.array([x[threads] for x in registers]), form)
        added = get_scale()[threads[:, 0]]
        if not added.all():
            c = np.where(added[:, None, None], c, F32(0))
        sums = tensor_core.multiply_add_units(a, b, c, form.of)
        if form.to == "f16":
            sums = sums.astype(F16).astype(F32)
        everyone = threads.size == machine.threads
        for store, x in zip(scatter, to_registers(sums, form), strict=True):
            store(x, None if everyone else threads.reshape(-1))
        groups.accumulators.keep([get() for get in get_d], threads, sums)

    return act


# Of the accumulator, lane = 4 * group + place: part of 8 columns, half of the rows, element; warp, group, place.


def to_matrix(registers: np.ndarray, form: Form) -> np.ndarray:
    """[registers, groups, 128] to [groups, 64, N]"""
    groups = registers.shape[1]
    if form.to == "f16":
        halves = np.moveaxis(decode(registers, "f16"), -1, 1)  # [registers, elements, groups, threads]
        registers = np.ascontiguousarray(halves)
    parts = registers.view(F32).reshape(form.N // 8, 2, 2, groups, 4, 8, 4)
    return np.ascontiguousarray(parts.transpose(3, 4, 1, 5, 0, 6, 2)).reshape(groups, 64, form.N)


def to_registers(sums: np.ndarray, form: Form) -> np.ndarray:
    """[groups, 64, N] to [registers, threads]"""
    parts = sums.reshape(-1, 4, 2, 8, form.N // 8, 4, 2).transpose(4, 2, 6, 0, 1, 3, 5)
    if form.to == "f32":
        return np.ascontiguousarray(parts).reshape(form.N // 2, -1).view(U32)
    pairs = np.ascontiguousarray(np.moveaxis(parts, 2, -1).astype(F16))
    return pairs.view(U32).reshape(form.N // 4, -1)


Side = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of threads and ticks


def left_side(machine: "Machine", inst: Inst, form: Form) -> Side:
    """[groups, 64, K]"""
    A, sign = inst.args[1], F32(form.signs[0])
    if not isinstance(A, Vec):
        read = reader(machine, inst, A, form, form.transposed[0], 64)
        return lambda threads, ticks: read(threads, ticks) * sign
    getters = [machine.array(x, "b32") for x in A.items]
    if len(getters) != 4:
        raise unsupported(inst)

    def from_registers(threads: np.ndarray, ticks: np.ndarray) -> np.ndarray:
        words = [get()[threads].reshape(-1) for get in getters]
        rows = gather_a(words, 16, form.K, form.of)  # [K, 16, warps]
        return np.ascontiguousarray(rows.transpose(2, 1, 0)).reshape(-1, 64, form.K) * sign

    return from_registers


def right_side(machine: "Machine", inst: Inst, form: Form) -> Side:
    """[groups, K, N]"""
    read, sign = reader(machine, inst, inst.args[2], form, form.transposed[1], form.N), F32(form.signs[1])
    return lambda threads, ticks: read(threads, ticks).swapaxes(1, 2) * sign


def reader(machine: "Machine", inst: Inst, operand: Any, form: Form, transposed: bool, count: int) -> Side:
    """Of rows of a matrix in shared memory: [groups, rows, K]"""
    get, access = machine.array(operand, "b64"), Access(inst, Kind.READ)
    size, memory, rows = SIZES[form.of], machine.shared, np.arange(count)

    def read(threads: np.ndarray, ticks: np.ndarray) -> np.ndarray:
        words = get()[threads]
        if (words != words[:, :1]).any():
            thread = int(threads[(words != words[:, :1]).any(1)][0, 0])
            raise DivergenceError("threads of a warpgroup with different descriptors of one wgmma", thread)
        addresses = Descriptor.of(words[:, 0]).chunks(rows, form.K, size, transposed)  # [groups, .., ..]
        of_each, first = addresses[0].size, np.repeat(threads[:, 0], addresses[0].size)
        offsets = memory.offsets(access, addresses.reshape(-1), CHUNK, first, "wgmma read")
        columns = np.repeat(machine.warpgroups.columns(threads[:, 0] // 32), of_each)
        groups = (threads[:, ::32] // 32, np.repeat(np.arange(len(threads)), of_each))
        memory.read_by_agent(access, offsets, CHUNK, first, columns, np.repeat(ticks, of_each), groups)
        found = decode(memory.bytes.vectors[4, 4][offsets >> 4], form.of).reshape(*addresses.shape, -1)
        if transposed:
            found = found.transpose(0, 1, 3, 2)
        return found.reshape(len(addresses), count, form.K)

    return read
