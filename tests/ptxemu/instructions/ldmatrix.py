"""ldmatrix: 8 x 8 matrices of 16-bit elements from rows in shared memory."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..builder import builds, unsupported
from ..memory.addresses import WINDOWS, Access, Kind
from ..memory.spaces import address_getter
from ..operands import Inst, items
from ..types import U16, U32, Mask, Step

if TYPE_CHECKING:
    from ..machine import Machine


@builds("ldmatrix")
def load_matrix(machine: "Machine", inst: Inst) -> Step:
    shape = inst.one_of("x1", "x2", "x4")
    if shape is None or "b16" not in inst.modifiers or "m8n8" not in inst.modifiers:
        raise unsupported(inst)
    count = int(shape[1])
    targets = [target.index for target in items(inst.args[0])]
    get_addresses = address_getter(machine, inst.args[1])
    transposed = "trans" in inst.modifiers
    access = Access(inst, Kind.READ)
    window = WINDOWS["shared"] if inst.space == "generic" else 0
    R, memory = machine.R, machine.shared
    threads = machine.all_threads.reshape(-1, 32)

    def step(mask: Mask) -> None:
        # lane i of the first 8 * count gives the address of row i
        warps: Any = slice(None)
        if mask is not None or machine.exited:
            warps = np.flatnonzero(machine.running(mask).reshape(-1, 32)[:, 0])
        addresses = np.ascontiguousarray(get_addresses().reshape(-1, 32)[warps, : 8 * count]).reshape(-1) - window
        active = None
        if count < 4 or not isinstance(warps, slice):
            active = np.ascontiguousarray(threads[warps, : 8 * count]).reshape(-1)
        offsets = memory.offsets(access, addresses, 16, active, "ldmatrix")
        machine.profiler.matrices(access, addresses)
        memory.check_read(access, offsets, 16, active)
        rows = memory.bytes.vectors[4, 4][offsets >> 4].reshape(-1, count, 8, 4)  # [warps, matrices, rows, words]
        if transposed:
            halves = rows.view(U16).reshape(-1, count, 8, 8)
            rows = np.ascontiguousarray(halves.swapaxes(2, 3)).view(U32)
        # lane i holds word i % 4 of row i / 4, of each matrix in a register of its own
        for i, matrix in zip(targets, rows.swapaxes(0, 1).reshape(count, -1), strict=True):
            if isinstance(warps, slice):
                R[i] = matrix
            else:
                R[i] = R[i].copy()
                R[i].reshape(-1, 32)[warps] = matrix.reshape(-1, 32)

    return step
