"""Where an instruction finds its tensor map, and how a kernel makes one."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..builder import builds, unsupported
from ..errors import TensorMapError
from ..memory.addresses import GLOBAL_BASE, WINDOW_SIZE, WINDOWS, Access, Kind
from ..memory.spaces import address_getter
from ..operands import Inst, Mem
from ..tensor_map import MAGIC, OFFSETS, ON_DEVICE, SIZE, TYPES, TensorMap
from ..types import U8, U32, U64, Mask, Step

if TYPE_CHECKING:
    from ..machine import Machine


def map_getter(machine: "Machine", operand: Mem) -> Callable[[int], TensorMap]:
    """Of a thread: by a generic address, of a parameter or of global memory."""
    get, decoded = address_getter(machine, operand), dict[bytes, TensorMap]()

    def find(thread: int) -> TensorMap:
        data = bytes_at(machine, int(get()[thread]), thread)
        if data not in decoded:
            decoded[data] = TensorMap.decoded(data)
            decoded[data].check()
        return decoded[data]

    return find


def bytes_at(machine: "Machine", address: int, thread: int) -> bytes:
    if address % 64:
        raise TensorMapError(f"a tensor map at {address:#x}, which 64 doesn't divide", thread)
    start = address - WINDOWS["param"] if address >= WINDOWS["param"] else address
    if 0 <= start < WINDOW_SIZE:
        data: np.ndarray = machine.parameters.data[start : start + SIZE]
    elif address >= GLOBAL_BASE:
        data = machine.globals.bytes_at(address, SIZE)
    else:
        data = np.zeros(0, np.uint8)
    if len(data) < SIZE:
        raise TensorMapError(f"there is no tensor map at {address:#x}", thread)
    return data.tobytes()


@builds("tensormap")
def change_map(machine: "Machine", inst: Inst) -> Step:
    if inst.modifiers[0] == "cp_fenceproxy":
        return copy_map(machine, inst)
    if inst.modifiers[:2] != ["replace", "tile"]:
        raise unsupported(inst)
    name = inst.modifiers[2]
    memory, *index, value = inst.args
    if name == "interleave_layout":
        return lambda mask: None
    if name not in OFFSETS:
        raise unsupported(inst)
    at, size = OFFSETS[name], {"global_address": 8, "global_stride": 8, "global_dim": 4, "box_dim": 4}.get(name, 1)
    at += size * index[0].value if index else 0
    get_addresses, get = address_getter(machine, memory), machine.array(value, "b64" if size == 8 else "b32")
    access, write, space = Access(inst, Kind.WRITE), machine.spaces.write, inst.space

    def step(mask: Mask) -> None:
        threads = np.flatnonzero(machine.running(mask))
        addresses, numbers = get_addresses()[threads], get()[threads].astype(U64)
        if name == "rank":
            numbers = numbers + U64(1)
        elif name == "elemtype":
            numbers = np.array([list(TYPES).index(ON_DEVICE[n]) for n in numbers.tolist()], U64)
        for k in range(0, size, 4):
            part = numbers >> U64(8 * k)
            if size == 1:
                write(space, access, addresses + at, 1, [part.astype(U8)], threads)
            else:
                write(space, access, addresses + at + k, 4, [(part & U64(0xFFFFFFFF)).astype(U32)], threads)
        write(space, access, addresses + 8, 4, [np.full(len(threads), MAGIC, U32)], threads)

    return step


def copy_map(machine: "Machine", inst: Inst) -> Step:
    """From shared to global memory, by a warp."""
    target, source, _ = inst.args
    get_target, get_source = address_getter(machine, target), address_getter(machine, source)
    read, write = Access(inst, Kind.READ), Access(inst, Kind.WRITE)

    def step(mask: Mask) -> None:
        threads = machine.warps_of(mask) * 32
        targets, sources = get_target()[threads], get_source()[threads]
        for k in range(0, SIZE, 4):
            words = machine.shared.read(read, sources + k, 4, 1, threads)
            machine.globals.write(write, targets + k, 4, words, threads)

    return step
