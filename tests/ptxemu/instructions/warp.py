"""What the lanes of a warp do together: shuffles, votes, matches, reductions.

The scheduler runs these instructions only when the lanes that they name have come together.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..builder import builds, unsupported
from ..errors import DivergenceError
from ..operands import Imm, Inst, Pair, Sink
from ..types import S64, U32, Mask, Step

if TYPE_CHECKING:
    from ..machine import Machine

TOGETHER = {"shfl", "vote", "match", "redux", "elect", "ldmatrix", "stmatrix", "mma", "wmma", "wgmma"}
FOUR_WARPS = "mma_async"  # of wgmma: machine/warpgroups.py


def is_barrier_of_a_warp(inst: Inst) -> bool:
    return inst.op in ("bar", "barrier") and "warp" in inst.modifiers


def needs_partners(inst: Inst) -> bool:
    return (inst.op in TOGETHER and FOUR_WARPS not in inst.modifiers) or is_barrier_of_a_warp(inst)


def members(inst: Inst) -> Any:
    """The operand that names the lanes; None where all must take part."""
    if is_barrier_of_a_warp(inst):
        return inst.args[0]
    return inst.args[-1] if inst.op in ("shfl", "vote", "match", "redux", "elect") else None


def all_lanes(operand: Any) -> bool:
    return isinstance(operand, Imm) and operand.value & 0xFFFFFFFF == 0xFFFFFFFF


def ballot(which: np.ndarray) -> np.ndarray:
    """Booleans of the threads as a mask for each warp."""
    return np.packbits(which.reshape(-1, 32), axis=1, bitorder="little").view(U32).reshape(-1)


def membership(machine: "Machine", inst: Inst) -> Callable[[Mask], None]:
    """Checks that every lane that executes is among those that it names."""
    if all_lanes(members(inst)):
        return lambda mask: None
    get = machine.array(members(inst), "b32")

    def check(mask: Mask) -> None:
        lanes = get()
        absent = ((lanes >> machine.lane) & U32(1) == 0) & machine.running(mask)
        if absent.any():
            thread = int(np.flatnonzero(absent)[0])
            message = f"{inst.opcode}: lane {thread % 32} is not among the lanes {int(lanes[thread]):#x} that it names"
            machine.report(machine.options.divergence, DivergenceError(message, thread), inst)

    return check


@builds("shfl")
def shuffle(machine: "Machine", inst: Inst) -> Step:
    target, a, by, bounds, _ = inst.args
    mode = inst.one_of("up", "down", "bfly", "idx")
    if "sync" not in inst.modifiers or mode is None:
        raise unsupported(inst)
    target, found = (target.first, target.second) if isinstance(target, Pair) else (target, Sink())
    get, get_by, get_bounds = machine.array(a, "b32"), machine.bits(by, 32), machine.bits(bounds, 32)
    store, store_found = machine.setter(target, "b32"), machine.setter(found, "pred")
    check = membership(machine, inst)
    lane = machine.lane.astype(S64)
    first = np.arange(machine.threads) - lane

    def sources() -> tuple[np.ndarray, np.ndarray]:
        """The thread that each one reads, and whether it is within bounds."""
        offset, bound = np.asarray(get_by()).astype(S64) & 31, np.asarray(get_bounds()).astype(S64)
        segment, clamp = (bound >> 8) & 31, bound & 31
        last = (lane & segment) | (clamp & ~segment)
        if mode == "up":
            other = lane - offset
            inside = other >= last
        else:
            other = {
                "down": lane + offset,
                "bfly": lane ^ offset,
                "idx": (lane & segment) | (offset & ~segment),
            }[mode]
            inside = other <= last
        return first + np.where(inside, other, lane), inside

    constant = sources() if isinstance(by, Imm) and isinstance(bounds, Imm) else None

    def step(mask: Mask) -> None:
        check(mask)
        source, inside = constant or sources()
        if mask is not None or machine.exited:
            running = machine.running(mask)
            lost = running & ~running[source]
            if lost.any():
                thread = int(np.flatnonzero(lost)[0])
                message = f"{inst.opcode} reads lane {int(source[thread]) % 32}, which does not execute it"
                machine.report(machine.options.divergence, DivergenceError(message, thread), inst)
        store(get()[source], mask)
        store_found(inside, mask)

    return step


@builds("vote")
def vote(machine: "Machine", inst: Inst) -> Step:
    target, a, lanes = inst.args
    mode = inst.one_of("all", "any", "uni", "ballot")
    if "sync" not in inst.modifiers or mode is None:
        raise unsupported(inst)
    get, get_lanes = machine.array(a, "pred"), machine.array(lanes, "b32")
    store = machine.setter(target, "b32" if mode == "ballot" else "pred")
    check = membership(machine, inst)

    def step(mask: Mask) -> None:
        check(mask)
        running = machine.running(mask)
        ayes = np.repeat(ballot(get() & running), 32) & get_lanes()
        if mode == "ballot":
            store(ayes, mask)
        elif mode == "any":
            store(ayes != 0, mask)
        else:
            everyone = np.repeat(ballot(running), 32) & get_lanes()
            store((ayes == everyone) | (ayes == 0) if mode == "uni" else ayes == everyone, mask)

    return step


@builds("match")
def match(machine: "Machine", inst: Inst) -> Step:
    target, a, lanes = inst.args
    get, get_lanes = machine.array(a, inst.type), machine.array(lanes, "b32")
    target, found = (target.first, target.second) if isinstance(target, Pair) else (target, Sink())
    store, store_found = machine.setter(target, "b32"), machine.setter(found, "pred")
    check = membership(machine, inst)

    def step(mask: Mask) -> None:
        check(mask)
        running = machine.running(mask)
        values = get().reshape(-1, 32)
        equal = (values[:, :, None] == values[:, None, :]) & running.reshape(-1, 1, 32)
        lanes_with_it = np.packbits(equal, axis=2, bitorder="little").view(U32).reshape(-1) & get_lanes()
        if "any" in inst.modifiers:
            store(lanes_with_it, mask)
            return
        everyone = np.repeat(ballot(running), 32) & get_lanes()
        same = lanes_with_it == everyone
        store(np.where(same, everyone, U32(0)), mask)
        store_found(same, mask)

    return step


REDUCTIONS = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


@builds("redux")
def reduce(machine: "Machine", inst: Inst) -> Step:
    target, a, lanes = inst.args
    function = REDUCTIONS[inst.one_of(*REDUCTIONS) or "add"]
    get, get_lanes = machine.array(a, inst.type), machine.array(lanes, "b32")
    store, check = machine.setter(target, inst.type), membership(machine, inst)

    def step(mask: Mask) -> None:
        check(mask)
        values = get().reshape(-1, 32)
        running, named = machine.running(mask).reshape(-1, 32), get_lanes().reshape(-1, 32)
        if all_lanes(lanes) and running.all():
            store(np.repeat(function.reduce(values, axis=1).astype(values.dtype), 32), mask)
            return
        result = np.zeros_like(values)
        for warp in np.flatnonzero(running.any(1)):
            for group in np.unique(named[warp][running[warp]]):
                chosen = running[warp] & ((int(group) >> np.arange(32) & 1) == 1)
                result[warp][running[warp] & (named[warp] == group)] = function.reduce(values[warp][chosen])
        store(result.reshape(-1), mask)

    return step


@builds("elect")
def elect(machine: "Machine", inst: Inst) -> Step:
    """The lowest of the lanes."""
    target, lanes = inst.args
    get_lanes = machine.array(lanes, "b32")
    store, store_leads = machine.setter(target.first, "b32"), machine.setter(target.second, "pred")

    def step(mask: Mask) -> None:
        there = (get_lanes() & np.repeat(ballot(machine.running(mask)), 32)).reshape(-1, 32)[:, 0].astype(S64)
        leader = np.repeat(np.log2(np.maximum(there & -there, 1)).astype(U32), 32)
        store(leader, mask)
        store_leads(machine.lane == leader, mask)

    return step


@builds("activemask")
def active_lanes(machine: "Machine", inst: Inst) -> Step:
    store = machine.setter(inst.args[0], "b32")
    return lambda mask: store(np.repeat(ballot(machine.running(mask)), 32), mask)


def synchronize_warp(machine: "Machine", inst: Inst) -> Step:
    """bar.warp.sync: what its lanes wrote to memory before, they read behind it."""
    check = membership(machine, inst)

    def step(mask: Mask) -> None:
        check(mask)
        machine.clocks.advance(machine.warps_of(mask))

    return step
