"""Copies in bulk between global and shared memory and within a cluster, of bytes and of boxes of tensors (TMA).

PTX ISA, "cp.async.bulk" and "cp.async.bulk.tensor". Data moves when the copy is issued; until its mbarrier or its bulk
group is waited for, nobody may look (memory/agents.py).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..builder import unsupported
from ..errors import BarrierError, OutOfBoundsError
from ..machine.bulk_groups import Reading
from ..machine.mbarriers import SIZE, Copy, MBarrier
from ..memory.addresses import LOG2, Access, Kind, check_alignment
from ..memory.agents import is_load
from ..memory.boxes import Box
from ..memory.matrices import CHUNK
from ..memory.spaces import address_getter, shared_offsets_getter
from ..operands import Inst, Mem
from ..types import RAW, S64, Mask, Step
from .atomics import update_of
from .tensor_maps import map_getter

if TYPE_CHECKING:
    from ..machine import Machine

Rows = np.ndarray  # [chunks of 16 bytes, 2]
REDUCTIONS = ("add", "min", "max", "inc", "dec", "and", "or", "xor")


def bulk(machine: "Machine", inst: Inst) -> Step:
    modifiers = set(inst.modifiers)
    groups = machine.bulk_groups
    if "commit_group" in modifiers:
        return for_each(machine, groups.commit)
    if "wait_group" in modifiers:
        pending = inst.args[0].value
        return for_each(machine, lambda thread: groups.wait(thread, pending))
    if "prefetch" in modifiers:
        return lambda mask: None
    if "im2col" in modifiers or "tile::gather4" in modifiers or "cp_mask" in modifiers:
        raise unsupported(inst)
    copy = BulkCopy(machine, inst)
    if "tensor" in modifiers:
        return for_each(machine, copy.tensor_from_global() if is_load(inst) else copy.tensor_to_global())
    if not is_load(inst):
        return for_each(machine, copy.to_global())
    return for_each(machine, copy.from_global() if is_from_global(inst) else copy.within_cluster())


def is_from_global(inst: Inst) -> bool:
    spaces = [x for x in inst.modifiers if x.split("::")[0] in ("global", "shared")]
    return spaces[1] == "global"


def for_each(machine: "Machine", act: Callable[[int], None]) -> Step:
    """Of the threads; mostly there is one."""

    def step(mask: Mask) -> None:
        for thread in np.flatnonzero(machine.running(mask)).tolist():
            act(thread)

    return step


class BulkCopy:
    def __init__(self, machine: "Machine", inst: Inst) -> None:
        self.machine, self.inst, self.shared = machine, inst, machine.shared
        self.reads, self.writes = Access(inst, Kind.READ), Access(inst, Kind.WRITE)
        self.reduces = inst.one_of(*REDUCTIONS) if "reduce" in inst.modifiers else None
        if self.reduces:
            self.writes = Access(inst, Kind.ATOMIC)

    def number(self, operand: Any, bits: int = 32) -> Callable[[int], int]:
        get = self.machine.array(operand, f"b{bits}")
        return lambda thread: int(get()[thread])

    def address(self, operand: Mem) -> Callable[[int], int]:
        """In global memory."""
        get = address_getter(self.machine, operand)

        def address(thread: int) -> int:
            check_alignment(get()[[thread]], CHUNK, np.array([thread]), self.inst.opcode)
            return int(get()[thread])

        return address

    def place(self, operand: Mem, size: int, what: str) -> Callable[[int], tuple[int, int]]:
        """Program and address there, in shared memory of the cluster."""
        get = shared_offsets_getter(self.machine, operand, self.inst, size, what)
        return lambda thread: divmod(int(get(np.array([thread]))[0]), self.shared.stride)

    def barrier(self, operand: Mem) -> Callable[[int], MBarrier]:
        get = shared_offsets_getter(self.machine, operand, self.inst, SIZE, "mbarrier of a copy")
        return lambda thread: self.machine.mbarriers.get(int(get(np.array([thread]))[0]), thread, self.inst)

    def multicast(self) -> Callable[[int], int] | None:
        """A bit for each program of the cluster that gets it."""
        if "multicast::cluster" not in self.inst.modifiers:
            return None
        masks = [x for x in self.inst.args if getattr(x, "bits", 0) == 16]
        return self.number(masks[-1] if masks else self.inst.args[-1], 16)

    # Shared memory

    def offsets(self, cta: int, addresses: np.ndarray, thread: int) -> np.ndarray:
        if int(addresses.max()) + CHUNK > self.shared.size:
            text = self.machine.layout.shared_text()
            message = f"{self.inst.opcode} of shared memory up to {int(addresses.max()) + CHUNK:#x}"
            raise OutOfBoundsError(f"{message}, which has {self.shared.size} bytes ({text})", thread)
        return addresses + cta * self.shared.stride

    def into(self, barrier: MBarrier, cta: int, addresses: np.ndarray, rows: Rows, thread: int) -> None:
        """Writes 16 bytes to each address of a program."""
        if barrier.cta != cta:
            raise BarrierError("the destination and the mbarrier of a copy in bulk are of different programs", thread)
        tick = self.machine.agents.tick(cta, barrier.column)
        offsets = self.offsets(cta, addresses, thread)
        same = np.ones(len(offsets), S64)
        granules = self.shared.write_by_agent(
            self.writes, offsets, rows, thread * same, barrier.column * same, tick * same
        )
        self.machine.mbarriers.start_copy(
            barrier, Copy(granules, barrier.column, tick, CHUNK * len(rows), self.inst, thread)
        )

    def into_all(
        self, mask: int | None, barrier: MBarrier, cta: int, addresses: np.ndarray, rows: Rows, thread: int
    ) -> None:
        """Or at the same addresses of all programs of the mask, with mbarriers at the same place."""
        if mask is None:
            self.into(barrier, cta, addresses, rows, thread)
            return
        size, stride = self.machine.cluster_size, self.shared.stride
        if mask >> size or not mask:
            raise OutOfBoundsError(f"multicast to programs {mask:#x} of a cluster of {size}", thread)
        first = cta // size * size
        for other in (first + rank for rank in range(size) if mask >> rank & 1):
            offset = barrier.offset % stride + other * stride
            self.into(self.machine.mbarriers.get(offset, thread, self.inst), other, addresses, rows, thread)

    def out_of(self, cta: int, addresses: np.ndarray, thread: int, column: int) -> tuple[Rows, int]:
        """What lies there, which is under way from there on; and the tick of that."""
        tick = self.machine.agents.tick(cta, column)
        offsets = self.offsets(cta, addresses, thread)
        same = np.ones(len(offsets), S64)
        self.shared.read_by_agent(self.reads, offsets, CHUNK, thread * same, column * same, tick * same)
        return self.shared.bytes.vectors[8, 2][offsets >> LOG2[CHUNK]], tick

    def out_of_group(self, cta: int, addresses: np.ndarray, thread: int) -> Rows:
        """In a bulk group of the thread."""
        column = self.machine.agents.of_stores(int(self.machine.warp_of[thread]))
        rows, tick = self.out_of(cta, addresses, thread, column)
        self.machine.bulk_groups.start(Reading(self.inst, thread, column, tick))
        return rows

    # Global memory

    def read_global(self, addresses: np.ndarray, size: int, thread: int) -> np.ndarray:
        if not len(addresses):
            return np.zeros(0, RAW[8 * size])
        offsets = self.machine.globals.offsets(self.reads, addresses, size, np.full(len(addresses), thread))
        return self.machine.globals.bytes.views[size][offsets >> LOG2[size]]

    def write_global(self, addresses: np.ndarray, values: np.ndarray, type_: str, thread: int) -> None:
        if not len(addresses):
            return
        size = values.dtype.itemsize
        offsets = self.machine.globals.offsets(self.writes, addresses, size, np.full(len(addresses), thread))
        view, places = self.machine.globals.bytes.views[size], offsets >> LOG2[size]
        if self.reduces:
            values = update_of(self.reduces, type_)(view[places], values, None)
        view[places] = values

    # Forms

    def size_of(self, operand: Any) -> Callable[[int], int]:
        get = self.number(operand)

        def size(thread: int) -> int:
            n = get(thread)
            if n % CHUNK:
                raise OutOfBoundsError(f"{self.inst.opcode} of {n} bytes, which {CHUNK} doesn't divide", thread)
            return n

        return size

    def from_global(self) -> Callable[[int], None]:
        target, source, size, barrier, *_ = self.inst.args
        get_place, get_source = self.place(target, CHUNK, "write in bulk"), self.address(source)
        get_size, get_barrier, get_mask = self.size_of(size), self.barrier(barrier), self.multicast()

        def act(thread: int) -> None:
            (cta, start), n = get_place(thread), get_size(thread)
            if n:
                steps = np.arange(0, n, 8)
                rows = self.read_global(get_source(thread) + steps, 8, thread).reshape(-1, 2)
                mask = None if get_mask is None else get_mask(thread)
                self.into_all(mask, get_barrier(thread), cta, start + np.arange(0, n, CHUNK), rows, thread)

        return act

    def to_global(self) -> Callable[[int], None]:
        target, source, size, *_ = self.inst.args
        get_target, get_place, get_size = self.address(target), self.place(source, CHUNK, "read"), self.size_of(size)
        type_ = self.inst.type if self.reduces else "b64"

        def act(thread: int) -> None:
            (cta, start), n = get_place(thread), get_size(thread)
            if n:
                rows = self.out_of_group(cta, start + np.arange(0, n, CHUNK), thread)
                values = np.ascontiguousarray(rows).view(RAW[self.width(type_)]).reshape(-1)
                addresses = get_target(thread) + np.arange(0, n, values.dtype.itemsize)
                self.write_global(addresses, values, type_, thread)

        return act

    @staticmethod
    def width(type_: str) -> int:
        return {"f16": 16, "bf16": 16}.get(type_) or int(type_[1:])

    def within_cluster(self) -> Callable[[int], None]:
        target, source, size, barrier, *_ = self.inst.args
        if self.reduces:
            raise unsupported(self.inst)
        get_target, get_source = self.place(target, CHUNK, "write in bulk"), self.place(source, CHUNK, "read in bulk")
        get_size, get_barrier = self.size_of(size), self.barrier(barrier)

        def act(thread: int) -> None:
            (cta, start), (own, source_start) = get_target(thread), get_source(thread)
            steps = np.arange(0, get_size(thread), CHUNK)
            if len(steps):
                to = get_barrier(thread)
                rows, _ = self.out_of(own, source_start + steps, thread, to.column)
                self.into(to, cta, start + steps, rows, thread)

        return act

    def tensor_from_global(self) -> Callable[[int], None]:
        target, source, barrier, *_ = self.inst.args
        get_place, get_map = self.place(target, CHUNK, "write in bulk"), map_getter(self.machine, source)
        coordinates = [self.number(x) for x in source.coordinates]
        get_barrier, get_mask = self.barrier(barrier), self.multicast()

        def act(thread: int) -> None:
            cta, start = get_place(thread)
            box = Box.at(get_map(thread), [signed(get(thread)) for get in coordinates])
            rows = box.filled(self.read_global(box.addresses, box.map.element, thread))
            mask = None if get_mask is None else get_mask(thread)
            self.into_all(mask, get_barrier(thread), cta, box.chunks(start), rows, thread)

        return act

    def tensor_to_global(self) -> Callable[[int], None]:
        target, source, *_ = self.inst.args
        get_place, get_map = self.place(source, CHUNK, "read in bulk"), map_getter(self.machine, target)
        coordinates = [self.number(x) for x in target.coordinates]

        def act(thread: int) -> None:
            cta, start = get_place(thread)
            box = Box.at(get_map(thread), [signed(get(thread)) for get in coordinates])
            values = box.elements(self.out_of_group(cta, box.chunks(start), thread))
            self.write_global(box.addresses, values, box.map.type.split(".")[0], thread)

        return act


def signed(number: int) -> int:
    return number - (1 << 32) if number >> 31 else number
