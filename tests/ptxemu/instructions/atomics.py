"""atom and red, in the order of the threads."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import numerics
from ..builder import builds, unsupported
from ..errors import UnsupportedError
from ..memory.addresses import LOG2, Access, Kind
from ..memory.spaces import address_getter, split_by_space
from ..operands import Inst, Sink, Vec
from ..types import BITS, F16, F32, FLOATS, HALVES, NUMPY, RAW, S64, U16, U32, Active, Mask, Step

if TYPE_CHECKING:
    from ..machine import Machine

# Of what is there, the operand, and of cas the second one: what is there then.
Update = Callable[[np.ndarray, np.ndarray, Any], np.ndarray]

BITWISE = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}
ARITHMETIC = {"add": (np.add, np.add), "min": (np.minimum, np.fmin), "max": (np.maximum, np.fmax)}
OPERATIONS = (*BITWISE, *ARITHMETIC, "exch", "cas", "inc", "dec")


def update_of(operation: str, type_: str) -> Update:
    raw = RAW[BITS[type_]]
    if operation == "exch":
        return lambda old, b, c: b
    if operation == "cas":
        return lambda old, b, c: np.where(old == b, c, old)
    if operation == "inc":
        return lambda old, b, c: np.where(old >= b, raw(0), old + raw(1))
    if operation == "dec":
        return lambda old, b, c: np.where((old == 0) | (old > b), b, old - raw(1))
    if operation in BITWISE:
        bitwise = BITWISE[operation]
        return lambda old, b, c: bitwise(old, b)
    function = ARITHMETIC[operation][type_ in FLOATS]
    if type_ in HALVES:
        return update_of_halves(function, type_)
    dtype = NUMPY[type_]
    return lambda old, b, c: function(old.view(dtype), b.view(dtype)).view(raw)


def update_of_halves(function: Callable[..., np.ndarray], type_: str) -> Update:
    packed = type_.endswith("x2")

    def update(old: np.ndarray, b: np.ndarray, c: Any) -> np.ndarray:
        x, y = old.view(U16), np.ascontiguousarray(b).view(U16)
        if type_.startswith("bf16"):
            result = numerics.f32_to_bf16(function(numerics.bf16_to_f32(x), numerics.bf16_to_f32(y)))
        else:
            result = function(x.view(F16).astype(F32), y.view(F16).astype(F32)).astype(F16).view(U16)
        return np.ascontiguousarray(result).view(U32) if packed else result

    return update


def apply(
    memory: np.ndarray, places: np.ndarray, update: Update, b: np.ndarray, c: np.ndarray | None, is_sum: bool
) -> np.ndarray:
    """memory[places] = update(memory[places], b, c), one after the other where places are the same; gives the old
    values."""
    order = np.argsort(places, kind="stable")
    ordered = places[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    if len(starts) == len(places):
        old = memory[places]
        memory[places] = update(old, b, c)
        return old
    counts = np.diff(starts, append=len(places))
    old = np.empty(len(places), memory.dtype)
    if is_sum:
        summands = b[order]
        sums = np.cumsum(summands, dtype=b.dtype)  # unsigned: it may wrap around
        before = sums - summands
        before -= np.repeat(before[starts], counts)
        old[order] = memory[ordered] + before
        last = starts + counts - 1
        memory[ordered[last]] += before[last] + summands[last]
        return old
    for turn in range(int(counts.max())):
        chosen = order[starts[counts > turn] + turn]
        there = memory[places[chosen]]
        old[chosen] = there
        memory[places[chosen]] = update(there, b[chosen], None if c is None else c[chosen])
    return old


@builds("atom", "red")
def atomic(machine: "Machine", inst: Inst) -> Step:
    if "async" in inst.modifiers:
        from .clusters import store_async  # which needs update_of

        return store_async(machine, inst)
    operation = inst.one_of(*OPERATIONS)
    if operation is None or inst.type == "b128" or isinstance(inst.args[-1], Vec):
        raise unsupported(inst)
    target, memory, *operands = inst.args if inst.op == "atom" else [Sink(), *inst.args]
    size = BITS[inst.type] // 8
    bits = f"b{8 * size}"
    get_addresses = address_getter(machine, memory)
    access = Access(inst, Kind.ATOMIC)
    get_b, *get_c = [machine.array(x, bits) for x in operands[: 2 if operation == "cas" else 1]]
    scatter = machine.scatterer(target, bits)
    update = update_of(operation, inst.type)
    is_sum = operation == "add" and inst.type not in FLOATS

    def act(space: str, addresses: np.ndarray, active: Active, b: np.ndarray, c: np.ndarray | None) -> np.ndarray:
        if space == "global":
            offsets, view = machine.globals.offsets(access, addresses, size, active), machine.globals.bytes.views[size]
        elif space == "shared":
            offsets = machine.shared.offsets(access, addresses, size, active, "atomic")
            machine.profiler.shared(access, addresses, size, active)
            machine.shared.check_atomic(access, offsets, size, active)
            view = machine.shared.bytes.views[size]
        else:
            raise UnsupportedError(f"atomic on .{space}: {inst.text}")
        return apply(view, offsets >> LOG2[size], update, b, c, is_sum)

    def step(mask: Mask) -> None:
        active = machine.active(mask)
        addresses, b, c = get_addresses(), get_b(), get_c[0]() if get_c else None
        if active is not None:
            addresses, b, c = addresses[active], b[active], None if c is None else c[active]
        if inst.space != "generic":
            old = act(inst.space, addresses, active, b, c)
        else:
            old = np.empty(len(addresses), RAW[8 * size])
            threads = machine.all_threads if active is None else active
            for space, start, which in split_by_space(addresses):
                some_c = None if c is None else c[which]
                old[which] = act(space, addresses[which] - S64(start), threads[which], b[which], some_c)
        scatter(old, active)
        if operation in ("cas", "exch"):  # a lock that nobody got: let the others go on
            taken = (old == (b if operation == "cas" else 0)).any()
            machine.spinning = 0 if taken else machine.spinning + 1

    return step
