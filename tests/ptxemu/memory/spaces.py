"""Accesses to whatever space an address is of."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..builder import Registers
from ..errors import UnsupportedError
from ..operands import Imm, Inst, Mem, Reg
from ..types import RAW, S64, Active, Getter
from .addresses import GLOBAL_BASE, WINDOW_SIZE, WINDOWS, Access, Kind

if TYPE_CHECKING:
    from ..machine import Machine


def address_getter(machine: Registers, operand: Any) -> Getter:
    """The addresses of all threads."""
    if not isinstance(operand, Mem):
        raise UnsupportedError(f"address expected, got {operand!r}")
    base, R = operand.base, machine.R
    if isinstance(base, Reg):
        i, offset = base.index, S64(operand.offset)
        if base.bits == 64:
            return (lambda: R[i].view(S64) + offset) if offset else (lambda: R[i].view(S64))
        return lambda: R[i].astype(S64) + offset
    start = base.value if isinstance(base, Imm) else machine.address_of(base.name)
    constant = np.full(machine.threads, start + operand.offset, S64)
    return lambda: constant


def shared_offsets_getter(
    machine: "Machine", operand: Any, inst: Inst, size: int, what: str, kind: Kind = Kind.ATOMIC
) -> Callable[[np.ndarray], np.ndarray]:
    """Where in the shared memory of the batch some threads find what an operand points to, of whichever space."""
    get, access = address_getter(machine, operand), Access(inst, kind)
    window = WINDOWS["shared"]

    def offsets(threads: np.ndarray) -> np.ndarray:
        addresses = get()[threads]
        addresses = np.where(addresses >= window, addresses - window, addresses)
        return machine.shared.offsets(access, addresses, size, threads, what)

    return offsets


def split_by_space(addresses: np.ndarray) -> list[tuple[str, int, Any]]:
    """Of generic addresses: each space that occurs, its start, and which of the addresses are its."""
    low, high = int(addresses.min()), int(addresses.max())
    if low >= GLOBAL_BASE:
        return [("global", 0, slice(None))]
    parts: list[tuple[str, int, Any]] = []
    others = np.ones(len(addresses), bool)
    for space, start in WINDOWS.items():
        if low >= start and high < start + WINDOW_SIZE:
            return [(space, start, slice(None))]
        inside = (addresses >= start) & (addresses < start + WINDOW_SIZE)
        if inside.any():
            parts.append((space, start, inside))
            others &= ~inside
    return [*parts, ("global", 0, others)] if others.any() else parts


class Spaces:
    """``addresses`` are those of the threads ``active``."""

    def __init__(self, machine: "Machine") -> None:
        self.by_name: dict[str, Any] = {
            "global": machine.globals,
            "const": machine.globals,
            "shared": machine.shared,
            "local": machine.local,
            "param": machine.parameters,
        }
        self.all_threads = np.arange(machine.threads)

    def read(
        self, space: str, access: Access, addresses: np.ndarray, size: int, count: int, active: Active
    ) -> list[np.ndarray]:
        if space != "generic":
            return self.by_name[space].read(access, addresses, size, count, active)
        parts = split_by_space(addresses)
        if len(parts) == 1:
            space, start, _ = parts[0]
            return self.by_name[space].read(access, addresses - start, size, count, active)
        threads = self.all_threads if active is None else active
        result = [np.zeros(len(addresses), RAW[8 * size]) for _ in range(count)]
        for space, start, which in parts:
            read = self.by_name[space].read(access, addresses[which] - start, size, count, threads[which])
            for column, values in zip(result, read, strict=True):
                column[which] = values
        return result

    def write(
        self, space: str, access: Access, addresses: np.ndarray, size: int, columns: list[np.ndarray], active: Active
    ) -> None:
        if space != "generic":
            if space in ("const", "param"):
                raise UnsupportedError(f"store to .{space}")
            self.by_name[space].write(access, addresses, size, columns, active)
            return
        threads = self.all_threads if active is None else active
        for space, start, which in split_by_space(addresses):
            some = [column[which] if np.ndim(column) else column for column in columns]
            self.write(space, access, addresses[which] - start, size, some, threads[which])
