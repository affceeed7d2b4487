"""Moves, also of vectors; addresses of other spaces."""

import numpy as np

from ..builder import Registers, builds
from ..memory.addresses import GLOBAL_BASE, RANK, WINDOW_SIZE, WINDOWS
from ..operands import Inst, Vec
from ..types import BITS, RAW, U64, Mask, Step


@builds("mov")
def move(machine: Registers, inst: Inst) -> Step:
    target, source = inst.args
    bits = BITS[inst.type]
    if isinstance(target, Vec) and isinstance(source, Vec):
        type_ = f"b{bits // len(target.items)}"
        getters = [machine.array(x, type_) for x in source.items]
        setters = [machine.setter(x, type_) for x in target.items]

        def move_all(mask: Mask) -> None:
            for store, x in zip(setters, [get() for get in getters], strict=True):
                store(x, mask)

        return move_all
    if isinstance(source, Vec):
        return pack(machine, target, source, bits)
    if isinstance(target, Vec):
        return unpack(machine, target, source, bits)
    return move_one(machine, target, source, bits)


def move_one(machine: Registers, target: object, source: object, bits: int) -> Step:
    type_ = "pred" if bits == 1 else f"b{bits}"
    get, store = machine.array(source, type_), machine.setter(target, type_)
    return lambda mask: store(get(), mask)


def pack(machine: Registers, target: object, source: Vec, bits: int) -> Step:
    count = len(source.items)
    size = bits // count
    getters = machine.values(*((x, f"b{size}") for x in source.items))
    store = machine.setter(target, f"b{bits}")

    def step(mask: Mask) -> None:
        elements = np.empty((machine.threads, count), RAW[size])
        for i, get in enumerate(getters):
            elements[:, i] = get()
        store(elements.view(RAW[bits]).reshape(-1), mask)

    return step


def unpack(machine: Registers, target: Vec, source: object, bits: int) -> Step:
    count = len(target.items)
    size = bits // count
    get = machine.array(source, f"b{bits}")
    setters = [machine.setter(x, f"b{size}") for x in target.items]

    def step(mask: Mask) -> None:
        elements = np.ascontiguousarray(get().view(RAW[size]).reshape(-1, count).T)
        for store, x in zip(setters, elements, strict=True):
            store(x, mask)

    return step


@builds("cvta")
def convert_address(machine: Registers, inst: Inst) -> Step:
    """Between an address of a space and a generic one: the space is a window of the generic addresses."""
    target, source = inst.args
    type_ = f"b{BITS[inst.type]}"
    get, store = machine.array(source, type_), machine.setter(target, type_)
    window = RAW[BITS[inst.type]](WINDOWS.get(inst.space, 0))
    if not window:
        return lambda mask: store(get(), mask)
    if "to" in inst.modifiers:
        return lambda mask: store(get() - window, mask)
    return lambda mask: store(get() + window, mask)


@builds("isspacep")
def is_in_space(machine: Registers, inst: Inst) -> Step:
    target, source = inst.args
    low, size = WINDOWS.get(inst.space, 0), WINDOW_SIZE
    if inst.space == "shared" and "shared::cluster" not in inst.modifiers:
        size = RANK
    if inst.space == "global":
        low, size = GLOBAL_BASE, 2**62
    return machine.compute(target, "pred", lambda x: (x >= U64(low)) & (x - U64(low) < U64(size)), (source, "u64"))


@builds("createpolicy")
def create_policy(machine: Registers, inst: Inst) -> Step:
    """Of a cache, which there is none."""
    store = machine.setter(inst.args[0], "b64")
    zeros = np.zeros(machine.threads, U64)
    return lambda mask: store(zeros, mask)


@builds("prefetch", "prefetchu", "griddepcontrol", "discard", "applypriority", "pmevent")
def nothing(machine: Registers, inst: Inst) -> Step:
    return lambda mask: None
