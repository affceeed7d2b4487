"""Global memory: copies of the arrays of a launch, far apart."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..errors import EmuError, OutOfBoundsError
from ..types import S64, Active
from .addresses import ARRAY_STEP, GLOBAL_BASE, Access, Bytes, Space, check_alignment, thread_of

ALIGNMENT = 512  # of an array's storage


class PtrArray:
    """Kernel argument: an array of pointers to these arrays (None: null)."""

    def __init__(self, arrays: list[Any]) -> None:
        self.arrays = list(arrays)


class Struct(NamedTuple):
    """Kernel argument: a struct of these bytes, but for its pointers."""

    data: bytes
    pointers: dict[int, Any]  # byte -> array that a pointer there points to


@dataclass
class Array:
    name: str
    size: int  # bytes
    host: int | None = None  # where it lies in this process
    read_only: bool = False
    skew: int = 0  # its offset from the start of an allocation
    initial: bytes = b""
    address: int = 0
    offset: int = 0  # in the buffer

    @property
    def place(self) -> slice:
        return slice(self.offset, self.offset + self.size)

    def host_bytes(self) -> np.ndarray:
        assert self.host is not None
        return np.frombuffer(memoryview((ctypes.c_uint8 * self.size).from_address(self.host)), np.uint8)


@dataclass
class Extent:
    """Memory of this process that an array or tensor covers."""

    pointer: int  # what the kernel gets
    low: int
    size: int
    storage: int  # start of its allocation
    read_only: bool


def storage_of(x: np.ndarray) -> np.ndarray:
    while isinstance(x.base, np.ndarray):
        x = x.base
    return x


def extent_of(x: Any) -> Extent:
    if isinstance(x, np.ndarray):
        pointer = x.__array_interface__["data"][0]
        steps = [(n - 1) * stride for n, stride in zip(x.shape, x.strides, strict=True)]
        low = pointer + sum(min(step, 0) for step in steps)
        size = sum(abs(step) for step in steps) + x.itemsize if x.size else 0
        storage = min(storage_of(x).__array_interface__["data"][0], low)
        return Extent(pointer, low, size, storage, not x.flags.writeable)
    if x.device.type != "cpu":
        raise EmuError("tensors must be on the CPU")
    pointer, itemsize = x.data_ptr(), x.element_size()
    span = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True)) * itemsize + itemsize
    return Extent(pointer, pointer, span if x.numel() else 0, x.untyped_storage().data_ptr(), False)


class GlobalMemory(Space):
    def __init__(self) -> None:
        self.arrays: list[Array] = []
        self.variables: dict[str, Array] = {}  # of the module
        # told of every access: which, addresses, their offsets in the buffer, bytes, threads
        self.watchers: list[Callable[[Access, np.ndarray, np.ndarray, int, Active], None]] = []

    def add_hosts(self, hosts: list[tuple[str, Any]]) -> list[tuple[Array, int]]:
        """Named arrays; those that overlap share an Array. Gives for each its Array and the offset of its pointer."""
        extents = [extent_of(x) for _, x in hosts]
        found: dict[int, Array] = {}
        last: Array | None = None
        for i in sorted(range(len(hosts)), key=lambda i: (extents[i].low, -extents[i].size)):
            (name, _), extent = hosts[i], extents[i]
            if extent.size == 0:
                found[i] = Array(name, 0, extent.low)
                self.arrays.append(found[i])
                continue
            if last is not None and last.host is not None and extent.low < last.host + last.size:
                last.size = max(last.size, extent.low + extent.size - last.host)
                last.read_only &= extent.read_only
                if name not in last.name.split("|"):
                    last.name += "|" + name
            else:
                skew = (extent.low - extent.storage) % ALIGNMENT
                last = Array(name, extent.size, extent.low, extent.read_only, skew)
                self.arrays.append(last)
            found[i] = last
        return [(found[i], extents[i].pointer - (found[i].host or 0)) for i in range(len(hosts))]

    def add_bytes(self, name: str, initial: bytes) -> Array:
        self.arrays.append(Array(name, len(initial), initial=initial))
        return self.arrays[-1]

    def place(self) -> None:
        """Gives every array its address and copies it in."""
        step = ARRAY_STEP
        while step < 2 * max((array.size for array in self.arrays), default=0) + 4096:
            step *= 2
        end = 0
        for i, array in enumerate(self.arrays):
            array.offset = end + array.skew
            array.address = GLOBAL_BASE + i * step + array.skew
            end = (array.offset + array.size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        self.bytes = Bytes(end)
        self.data = self.bytes.data
        for array in self.arrays:
            if array.size:
                initial = np.frombuffer(array.initial, np.uint8) if array.host is None else array.host_bytes()
                self.data[array.place] = initial
        self.starts = np.array([array.address for array in self.arrays] or [GLOBAL_BASE], S64)
        self.ends = self.starts + np.array([array.size for array in self.arrays] or [0], S64)
        self.deltas = self.starts - np.array([array.offset for array in self.arrays] or [0], S64)

    def copy_back(self) -> None:
        for array in self.arrays:
            if array.host is None or array.size == 0:
                continue
            after, host = self.data[array.place], array.host_bytes()
            if not array.read_only:
                host[:] = after
            elif not np.array_equal(after, host):
                raise EmuError(f"kernel wrote to the read-only array {array.name}")

    def offsets(self, access: Access, addresses: np.ndarray, size: int, active: Active) -> np.ndarray:
        """Of addresses in the buffer; checks alignment and bounds, and tells the watchers."""
        check_alignment(addresses, size, active, f"global {access.kind.value}")
        if addresses.min() >= access.low and addresses.max() + size <= access.high:
            offsets = addresses - access.delta
        else:
            offsets = self.offsets_anywhere(access, addresses, size, active)
        for watch in self.watchers:
            watch(access, addresses, offsets, size, active)
        return offsets

    def offsets_anywhere(self, access: Access, addresses: np.ndarray, size: int, active: Active) -> np.ndarray:
        number = np.searchsorted(self.starts, addresses, "right") - 1
        outside = (number < 0) | (addresses + size > self.ends[np.maximum(number, 0)])
        if outside.any():
            k = int(np.flatnonzero(outside)[0])
            where = self.describe(int(addresses[k]), int(number[k]))
            raise OutOfBoundsError(
                f"{size}-byte global {access.kind.value} at {int(addresses[k]):#x} out of bounds: {where}"
                f" ({int(outside.sum())} threads)",
                thread_of(active, k),
            )
        access.array = first = int(number[0])
        access.low, access.high = int(self.starts[first]), int(self.ends[first])
        access.delta = int(self.deltas[first])
        return addresses - self.deltas[number]

    def describe(self, address: int, number: int) -> str:
        """An address outside all arrays, the last of which before it is the number given."""
        before = self.arrays[number] if number >= 0 else None
        behind = self.arrays[number + 1] if number + 1 < len(self.arrays) else None
        if behind is not None and behind.address - address < ARRAY_STEP // 2:
            return f"{behind.address - address} bytes before array {behind.name!r}"
        if before is None:
            return "which is no global address (null or a shared or local address)"
        return f"offset {address - before.address} of array {before.name!r} of {before.size} bytes"

    def bytes_at(self, address: int, size: int) -> np.ndarray:
        """Unwatched; fewer, where an array ends."""
        number = int(np.searchsorted(self.starts, address, "right")) - 1
        if number < 0:
            return self.data[:0]
        end = min(address + size, int(self.ends[number]))
        return self.data[address - int(self.deltas[number]) : end - int(self.deltas[number])]

    def string_at(self, address: int) -> str:
        number = int(np.searchsorted(self.starts, address, "right")) - 1
        if number < 0 or address >= self.ends[number]:
            return "?"
        array = self.arrays[number]
        text = self.data[address - int(self.deltas[number]) : array.offset + array.size].tobytes()
        return text.split(b"\0", 1)[0].decode("utf8", "replace")
