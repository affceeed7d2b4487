"""stmatrix: 8 x 8 matrices of 16-bit elements to rows in shared memory."""

from typing import TYPE_CHECKING

import numpy as np

from ..builder import builds, unsupported
from ..memory.addresses import WINDOWS, Access, Kind
from ..memory.spaces import address_getter
from ..operands import Inst, items
from ..types import U16, U32, Mask, Step

if TYPE_CHECKING:
    from ..machine import Machine


@builds("stmatrix")
def store_matrix(machine: "Machine", inst: Inst) -> Step:
    shape = inst.one_of("x1", "x2", "x4")
    if shape is None or "b16" not in inst.modifiers or "m8n8" not in inst.modifiers:
        raise unsupported(inst)
    count = int(shape[1])
    get_addresses = address_getter(machine, inst.args[0])
    getters = [machine.array(x, "b32") for x in items(inst.args[1])]
    access = Access(inst, Kind.WRITE)
    window = WINDOWS["shared"] if inst.space == "generic" else 0
    memory, threads = machine.shared, machine.all_threads.reshape(-1, 32)

    def step(mask: Mask) -> None:
        # lane i of the first 8 * count gives the address of row i; it holds word i % 4 of row i / 4 of each matrix
        warps = machine.warps_of(mask)
        active = np.ascontiguousarray(threads[warps, : 8 * count]).reshape(-1)
        addresses = get_addresses()[active] - window
        words = np.array([get().reshape(-1, 32)[warps] for get in getters])  # [matrices, warps, lanes]
        rows = np.ascontiguousarray(words.reshape(count, len(warps), 8, 4).swapaxes(0, 1))
        if "trans" in inst.modifiers:
            halves = rows.view(U16).reshape(len(warps), count, 8, 8)
            rows = np.ascontiguousarray(halves.swapaxes(2, 3)).view(U32)
        offsets = memory.offsets(access, addresses, 16, active, "stmatrix")
        machine.profiler.shared(access, addresses, 16, active)
        memory.write_at(access, offsets, 4, list(np.ascontiguousarray(rows.reshape(-1, 4).T)), active)

    return step
