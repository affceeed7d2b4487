"""cp.async: copies from global to shared memory, in groups that a thread waits for."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..builder import builds, unsupported
from ..errors import OutOfBoundsError
from ..machine.mbarriers import SIZE
from ..memory.addresses import LOG2, Access, Kind, thread_of
from ..memory.spaces import address_getter, shared_offsets_getter
from ..operands import Inst, Reg
from ..types import RAW, S64, Active, Getter, Mask, Step
from .bulk import bulk

if TYPE_CHECKING:
    from ..machine import Machine


@builds("cp")
def copy(machine: "Machine", inst: Inst) -> Step:
    modifiers = inst.modifiers
    if "bulk" in modifiers:
        return bulk(machine, inst)
    if modifiers[0] != "async":
        raise unsupported(inst)
    if "mbarrier" in modifiers:
        return arrive_when_copied(machine, inst)
    if "commit_group" in modifiers:
        return commit_group(machine)
    if "wait_group" in modifiers or "wait_all" in modifiers:
        return wait(machine, inst.args[0].value if "wait_group" in modifiers else -1)
    return copy_async(machine, inst)


def arrive_when_copied(machine: "Machine", inst: Inst) -> Step:
    """At an mbarrier, when all copies of the thread so far are complete: here at once."""
    get_offsets = shared_offsets_getter(machine, inst.args[0], inst, SIZE, inst.opcode)
    barriers = machine.mbarriers

    def step(mask: Mask) -> None:
        threads = np.flatnonzero(machine.running(mask))
        until = np.full(machine.threads, -1)
        until[threads] = np.iinfo(S64).max
        machine.shared.wait_for_copies(until)
        offsets = get_offsets(threads)
        for offset in np.unique(offsets).tolist():
            some = threads[offsets == offset]
            barrier = barriers.get(offset, some, inst)
            if "noinc" not in inst.modifiers:  # its arrival is none of those that the phase waits for
                barrier.pending += len(some)
            barriers.arrive(barrier, some, np.ones(len(some), S64), inst, drop=False, releases=True)

    return step


def commit_group(machine: "Machine") -> Step:
    def step(mask: Mask) -> None:
        machine.copy_group = machine.copy_group + (1 if mask is None else mask)

    return step


def wait(machine: "Machine", open_groups: int) -> Step:
    """Until at most so many of the last groups are under way; -1: also what belongs to no group yet."""

    def step(mask: Mask) -> None:
        until = machine.copy_group - open_groups
        machine.shared.wait_for_copies(until if mask is None else np.where(mask, until, -1))

    return step


def size_getter(machine: "Machine", operands: list[Any], size: int) -> Getter | None:
    """Bytes that each thread copies, the rest being zeros; None for all of them."""
    if not operands:
        return None
    operand = operands[0]
    if isinstance(operand, Reg) and operand.bits == 1:
        ignore = machine.bits(operand, 1)
        return lambda: np.where(ignore(), 0, size)
    if isinstance(operand, Reg) and operand.bits == 64:  # a cache policy
        return None
    get = machine.array(operand, "b32")
    return lambda: get().astype(S64)


def copy_async(machine: "Machine", inst: Inst) -> Step:
    target, source, constant, *rest = inst.args
    size = constant.value
    get_target, get_source = address_getter(machine, target), address_getter(machine, source)
    write, read = Access(inst, Kind.WRITE), Access(inst, Kind.READ)
    get_sizes = size_getter(machine, rest, size)
    word = min(size, 8)
    words = size // word

    def load(addresses: np.ndarray, active: Active) -> np.ndarray:
        offsets, memory = machine.globals.offsets(read, addresses, size, active), machine.globals.bytes
        if words == 1:
            return memory.views[word][offsets >> LOG2[word]][:, None]
        return memory.vectors[word, words][offsets >> LOG2[size]]

    def load_part(addresses: np.ndarray, threads: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Of sizes that are not all the whole one."""
        rows = np.zeros((len(addresses), words), RAW[8 * word])
        whole = np.flatnonzero(sizes == size)
        if len(whole):
            rows[whole] = load(addresses[whole], threads[whole])
        for k in np.flatnonzero((sizes > 0) & (sizes < size)):
            for i in range(int(sizes[k])):
                offset = machine.globals.offsets(read, addresses[k : k + 1] + i, 1, threads[k : k + 1])
                rows.view(np.uint8)[k, i] = machine.globals.data[offset[0]]
        return rows

    def step(mask: Mask) -> None:
        active = machine.active(mask)
        targets, sources, groups = get_target(), get_source(), machine.copy_group
        sizes = get_sizes() if get_sizes is not None else None
        if active is not None:
            targets, sources, groups = targets[active], sources[active], groups[active]
            sizes = sizes[active] if sizes is not None else None
        offsets = machine.shared.offsets(write, targets, size, active, "cp.async write")
        machine.profiler.shared(write, targets, size, active)
        if sizes is None or (sizes == size).all():
            rows = load(sources, active)
        else:
            if int(sizes.max()) > size:
                k = int(sizes.argmax())
                message = f"cp.async of {int(sizes[k])} bytes, where its size is {size}"
                raise OutOfBoundsError(message, thread_of(active, k))
            rows = load_part(sources, machine.all_threads if active is None else active, sizes)
        machine.shared.start_copies(write, offsets, rows, active, groups)

    return step
