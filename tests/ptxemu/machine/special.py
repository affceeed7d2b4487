"""Special registers: %tid.x and the like."""

from typing import TYPE_CHECKING

import numpy as np

from ..errors import UnsupportedError
from ..types import U32, U64, Getter
from .clusters import block_index, coordinates

if TYPE_CHECKING:
    from .machine import Machine

CLOCKS_32 = ("%clock", "%clock_hi", "%globaltimer_lo", "%globaltimer_hi")
CLOCKS_64 = ("%clock64", "%globaltimer")


class SpecialRegisters:
    def __init__(self, machine: "Machine", dynamic_smem: int) -> None:
        self.machine = machine
        self.ticks = 0
        self.ctaid: dict[str, np.ndarray] = {}
        lane, thread = machine.lane, machine.thread_in_cta
        x, y, _ = machine.block
        own = U32(1) << lane
        arrays = {
            "%tid.x": thread % x,
            "%tid.y": thread // x % y,
            "%tid.z": thread // (x * y),
            "%laneid": lane,
            "%warpid": machine.warp_in_cta,
            "%lanemask_eq": own,
            "%lanemask_lt": own - U32(1),
            "%lanemask_le": own - U32(1) | own,
            "%lanemask_gt": ~(own - U32(1) | own),
            "%lanemask_ge": ~(own - U32(1)),
        }
        numbers = {
            "%nwarpid": machine.cta_warps,
            "%smid": 0,
            "%nsmid": 108,
            "%gridid": 1,
            "%dynamic_smem_size": dynamic_smem,
            "%total_smem_size": machine.layout.shared_size,
            "%reserved_smem_offset_begin": 0,
            "%reserved_smem_offset_end": 0,
        }
        for i, axis in enumerate("xyz"):
            numbers["%ntid." + axis], numbers["%nctaid." + axis] = machine.block[i], machine.grid[i]
            numbers["%cluster_nctaid." + axis] = machine.cluster[i]
            numbers["%nclusterid." + axis] = machine.grid[i] // machine.cluster[i]
        numbers["%cluster_nctarank"] = machine.cluster_size
        rank = machine.cta_of % machine.cluster_size
        arrays["%cluster_ctarank"] = rank
        for axis, array in zip("xyz", coordinates(rank, machine.cluster), strict=True):
            arrays["%cluster_ctaid." + axis] = array
        self.constant = {name: array.astype(U32) for name, array in arrays.items()}
        self.constant |= {name: np.full(machine.threads, x, U32) for name, x in numbers.items()}

    def start_batch(self) -> None:
        index = block_index(self.machine, self.machine.first_cta + self.machine.cta_of)
        for axis, array, size in zip("xyz", index, self.machine.cluster, strict=True):
            self.ctaid["%ctaid." + axis] = array.astype(U32)
            self.ctaid["%clusterid." + axis] = (array // size).astype(U32)

    def getter(self, name: str) -> Getter:
        if name in self.constant:
            array = self.constant[name]
            return lambda: array
        if name == "%is_explicit_cluster":
            explicit = np.full(self.machine.threads, self.machine.cluster_size > 1)
            return lambda: explicit
        if name in self.ctaid or name.startswith(("%ctaid.", "%clusterid.")):
            return lambda: self.ctaid[name]
        if name in CLOCKS_32:
            return lambda: np.full(self.machine.threads, self.tick() & 0xFFFFFFFF, U32)
        if name in CLOCKS_64:
            return lambda: np.full(self.machine.threads, self.tick(), U64)
        raise UnsupportedError(f"special register {name}")

    def tick(self) -> int:
        self.ticks += 100
        return self.ticks
