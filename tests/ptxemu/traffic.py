"""What a launch asks of global memory, array by array."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .memory.addresses import Access, Kind
from .types import Active

if TYPE_CHECKING:
    from .machine import Machine

SECTOR = 32  # bytes, the least that memory gives


@dataclass
class Traffic:
    """Of one array, in one direction; atomics are writes."""

    bytes: int = 0  # asked for by the threads
    sectors: int = 0  # asked for by the warps, a request at a time: what the L2 cache gives
    touched: int = 0  # different sectors: what memory gives to a perfect cache
    widths: Counter[int] = field(default_factory=Counter)  # bytes, by the size of a thread's access


class TrafficCount:
    def __init__(self, machine: "Machine") -> None:
        self.machine = machine
        self.counted: dict[tuple[int, str], Traffic] = {}  # by number of the array
        sectors = len(machine.globals.data) // SECTOR
        self.touched = {how: np.zeros(sectors, bool) for how in ("read", "write")}

    def watch(self, access: Access, addresses: np.ndarray, offsets: np.ndarray, size: int, active: Active) -> None:
        machine = self.machine
        if machine.profiler.is_paused:
            return
        how = "read" if access.kind is Kind.READ else "write"
        sectors = offsets // SECTOR
        self.touched[how][sectors] = True
        warps = machine.warp_of if active is None else machine.warp_of[active]
        if addresses.min() >= access.low and addresses.max() < access.high:  # the common case: one array
            self.count(access.array, how, sectors, warps, size)
            return
        arrays = np.searchsorted(machine.globals.starts, addresses, "right") - 1
        for array in np.unique(arrays).tolist():
            mine = arrays == array
            self.count(array, how, sectors[mine], warps[mine], size)

    def count(self, array: int, how: str, sectors: np.ndarray, warps: np.ndarray, size: int) -> None:
        traffic = self.counted.setdefault((array, how), Traffic())
        traffic.bytes += size * len(sectors)
        traffic.widths[size] += size * len(sectors)
        requests = (warps << 40) + sectors
        steps = np.diff(requests)
        if (steps < 0).any():
            steps = np.diff(np.sort(requests))
        traffic.sectors += 1 + int(np.count_nonzero(steps))

    def by_name(self) -> dict[tuple[str, str], Traffic]:
        """(array, "read" or "write") -> what of it."""
        found = {}
        for (number, how), traffic in self.counted.items():
            array = self.machine.globals.arrays[number]
            first, last = array.offset // SECTOR, (array.offset + array.size - 1) // SECTOR
            traffic.touched = int(np.count_nonzero(self.touched[how][first : last + 1]))
            found[array.name, how] = traffic
        return found
