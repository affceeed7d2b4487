"""Local memory, each thread's own, and the parameters of the kernel."""

from typing import TYPE_CHECKING

import numpy as np

from ..errors import OutOfBoundsError
from ..types import RAW, S64, Active
from .addresses import WINDOWS, Access, Bytes, Space, check_alignment, thread_of

if TYPE_CHECKING:
    from ..machine import Machine


class LocalMemory(Space):
    def __init__(self, machine: "Machine", size: int) -> None:
        self.size = size
        self.stride = max(16, (size + 15) // 16 * 16)
        self.bytes = Bytes(machine.threads * self.stride)
        self.starts = np.arange(machine.threads, dtype=S64) * self.stride

    def offsets(self, access: Access, addresses: np.ndarray, size: int, active: Active) -> np.ndarray:
        check_alignment(addresses, size, active, f"local {access.kind.value}")
        outside = (addresses < 0) | (addresses + size > self.size)
        if outside.any():
            k = int(np.flatnonzero(outside)[0])
            raise OutOfBoundsError(
                f"{size}-byte local {access.kind.value} at {int(addresses[k])} out of bounds: "
                f"{self.size} bytes of local memory per thread",
                thread_of(active, k),
            )
        return addresses + (self.starts if active is None else self.starts[active])


class Parameters:
    """Of the kernel, read through a register: from an array of them, or a generic address."""

    def __init__(self, block: bytes) -> None:
        self.size = len(block)
        self.data = np.frombuffer(block + bytes(16), np.uint8)

    def read(self, access: Access, addresses: np.ndarray, size: int, count: int, active: Active) -> list[np.ndarray]:
        window = WINDOWS["param"]
        addresses = np.where(addresses >= window, addresses - window, addresses)
        outside = (addresses < 0) | (addresses + size * count > self.size)
        if outside.any():
            k = int(np.flatnonzero(outside)[0])
            message = f"kernel parameter read at offset {int(addresses[k])} of {self.size}"
            raise OutOfBoundsError(message, thread_of(active, k))
        rows = self.data[addresses[:, None] + np.arange(size * count)]
        return list(np.ascontiguousarray(rows.view(RAW[8 * size]).T))
