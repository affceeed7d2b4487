"""Addresses in the shared memory of a cluster, and stores there that an mbarrier counts."""

from typing import TYPE_CHECKING

import numpy as np

from ..builder import builds, unsupported
from ..machine.mbarriers import SIZE, Copy
from ..memory.addresses import LOG2, RANK, WINDOWS, Access, Kind
from ..memory.spaces import shared_offsets_getter
from ..operands import Inst, items
from ..types import BITS, RAW, S64, U32, Mask, Step
from .atomics import OPERATIONS, update_of

if TYPE_CHECKING:
    from ..machine import Machine


@builds("mapa")
def map_address(machine: "Machine", inst: Inst) -> Step:
    """The same place in the shared memory of another program of the cluster."""
    target, address, rank = inst.args
    bits = BITS[inst.type]
    get, get_rank = machine.array(address, f"b{bits}"), machine.array(rank, "b32")
    store = machine.setter(target, f"b{bits}")
    window = 0 if inst.space == "shared" else WINDOWS["shared"]

    def step(mask: Mask) -> None:
        within = (get().astype(S64) - window) % RANK
        store((within + (get_rank().astype(S64) + 1) * RANK + window).astype(RAW[bits]), mask)

    return step


@builds("getctarank")
def rank_of_address(machine: "Machine", inst: Inst) -> Step:
    target, address = inst.args
    get, store = machine.array(address, f"b{BITS[inst.type]}"), machine.setter(target, "b32")
    window = 0 if inst.space == "shared" else WINDOWS["shared"]
    own = machine.cta_of % machine.cluster_size

    def step(mask: Mask) -> None:
        rank = (get().astype(S64) - window) // RANK - 1
        store(np.where(rank < 0, own, rank).astype(U32), mask)

    return step


def store_async(machine: "Machine", inst: Inst) -> Step:
    """st.async and red.async."""
    memory, value, barrier = inst.args
    values = items(value)
    size = BITS[inst.type] // 8
    operation = inst.one_of(*OPERATIONS) if inst.op == "red" else None
    total = size * len(values)
    access = Access(inst, Kind.ATOMIC if operation else Kind.WRITE)
    get_offsets = shared_offsets_getter(machine, memory, inst, total, inst.opcode)
    get_barriers = shared_offsets_getter(machine, barrier, inst, SIZE, inst.opcode)
    getters = [machine.array(x, f"b{8 * size}") for x in values]
    shared, barriers = machine.shared, machine.mbarriers
    if operation and len(values) != 1:
        raise unsupported(inst)

    def step(mask: Mask) -> None:
        threads = np.flatnonzero(machine.running(mask))
        places = zip(threads.tolist(), get_offsets(threads).tolist(), get_barriers(threads).tolist(), strict=True)
        for thread, offset, at in places:
            to = barriers.get(at, thread, inst)
            row = np.array([[get()[thread] for get in getters]])
            tick = machine.agents.tick(to.cta, to.column)
            one = np.ones(1, S64)
            agent = (thread * one, to.column * one, tick * one)
            if operation:
                shared.change_by_agent(access, offset * one, size, *agent)
                view, place = shared.bytes.views[size], np.array([offset >> LOG2[size]])
                view[place] = update_of(operation, inst.type)(view[place], row[0], None)
                granules = np.zeros(0, S64)
            else:
                granules = shared.write_by_agent(access, offset * one, row, *agent)
            barriers.start_copy(to, Copy(granules, to.column, tick, total, inst, thread))

    return step
