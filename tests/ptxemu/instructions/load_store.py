"""ld and st, of all spaces."""

from typing import TYPE_CHECKING

import numpy as np

from ..builder import builds, unsupported
from ..memory.addresses import Access, Kind
from ..memory.spaces import address_getter
from ..operands import Inst, Sym, items
from ..types import BITS, RAW, SIGNED, U8, Mask, Step
from .clusters import store_async

if TYPE_CHECKING:
    from ..machine import Machine


@builds("ld", "ldu")
def load(machine: "Machine", inst: Inst) -> Step:
    targets, memory = items(inst.args[0]), inst.args[1]
    if len(targets) != inst.width or inst.type == "b128":
        raise unsupported(inst)
    if inst.space == "param" and isinstance(memory.base, Sym):
        return load_parameter(machine, inst)
    bits = BITS[inst.type]
    type_ = inst.type if inst.type in SIGNED else f"b{bits}"
    get_addresses = address_getter(machine, memory)
    access = Access(inst, Kind.READ)
    setters = [machine.scatterer(target, type_) for target in targets]
    read, space, size, count = machine.spaces.read, inst.space, bits // 8, inst.width

    def step(mask: Mask) -> None:
        active = machine.active(mask)
        addresses = get_addresses()
        if active is not None:
            addresses = addresses[active]
        for store, x in zip(setters, read(space, access, addresses, size, count, active), strict=True):
            store(x, active)

    return step


@builds("st")
def store(machine: "Machine", inst: Inst) -> Step:
    if "async" in inst.modifiers:
        return store_async(machine, inst)
    memory, values = inst.args[0], items(inst.args[1])
    if len(values) != inst.width or inst.type == "b128":
        raise unsupported(inst)
    if inst.space == "param":
        return store_parameter(machine, inst)
    size = BITS[inst.type] // 8
    get_addresses = address_getter(machine, memory)
    access = Access(inst, Kind.WRITE)
    getters = [machine.array(value, f"b{8 * size}") for value in values]
    write, space = machine.spaces.write, inst.space

    def step(mask: Mask) -> None:
        active = machine.active(mask)
        addresses, columns = get_addresses(), [get() for get in getters]
        if active is not None:
            addresses, columns = addresses[active], [column[active] for column in columns]
        write(space, access, addresses, size, columns, active)

    return step


def load_parameter(machine: "Machine", inst: Inst) -> Step:
    """Of the kernel, which is constant, or of a call."""
    memory, size = inst.args[1], BITS[inst.type] // 8
    type_ = inst.type if inst.type in SIGNED else f"b{8 * size}"
    setters = [machine.setter(target, type_) for target in items(inst.args[0])]
    places = [slice(memory.offset + i * size, memory.offset + (i + 1) * size) for i in range(len(setters))]
    start = machine.layout.parameters.get(memory.base.name)
    if start is not None:
        data = machine.parameters.data[start:]
        constants = [np.full(machine.threads, data[place].copy().view(RAW[8 * size])[0]) for place in places]

        def step(mask: Mask) -> None:
            for store, x in zip(setters, constants, strict=True):
                store(x, mask)

        return step
    buffer = machine.calls.buffer(memory.base.name)

    def step_of_call(mask: Mask) -> None:
        for store, place in zip(setters, places, strict=True):
            store(np.ascontiguousarray(buffer[:, place]).view(RAW[8 * size]).reshape(-1), mask)

    return step_of_call


def store_parameter(machine: "Machine", inst: Inst) -> Step:
    """Of a call."""
    memory, size = inst.args[0], BITS[inst.type] // 8
    buffer = machine.calls.buffer(memory.base.name)
    getters = [machine.array(value, f"b{8 * size}") for value in items(inst.args[1])]

    def step(mask: Mask) -> None:
        which = slice(None) if mask is None else mask
        for i, get in enumerate(getters):
            data = np.ascontiguousarray(get()).view(U8).reshape(-1, size)
            buffer[which, memory.offset + i * size : memory.offset + (i + 1) * size] = data[which]

    return step
