"""Where the spaces lie among generic addresses, and what an instruction's access to memory is."""

from abc import ABC, abstractmethod
from enum import Enum

import numpy as np

from ..errors import MisalignedError
from ..operands import Inst
from ..types import Active

WINDOW_SIZE = 1 << 32
WINDOWS = {"shared": 1 << 40, "local": 1 << 41, "param": 1 << 42}
GLOBAL_BASE = 1 << 44
RANK = 1 << 24  # among addresses of shared memory: those of the cluster's first program start here, others behind
ARRAY_STEP = 1 << 34  # arrays lie far apart, so that a stray index hits none

LOG2 = {1: 0, 2: 1, 4: 2, 8: 3, 16: 4, 32: 5}
# Loads and stores that hardware doesn't tear: those of two programs are no race.
STRONG = {"volatile", "relaxed", "acquire", "release", "acq_rel", "mmio"}


class Kind(Enum):
    READ = "read"
    WRITE = "write"
    ATOMIC = "atomic"


class Access:
    """A memory operand of an instruction; remembers the array it hit last, which it will hit again."""

    def __init__(self, inst: Inst, kind: Kind) -> None:
        self.inst, self.line, self.kind = inst, inst.line, kind
        self.low, self.high, self.delta, self.array = 1, 0, 0, 0
        modifiers = set(inst.modifiers)
        self.strong = kind is Kind.ATOMIC or bool(modifiers & STRONG)
        self.communicates = self.strong and "cta" not in modifiers  # with other programs
        self.acquires = self.communicates and bool(modifiers & {"acquire", "acq_rel"})
        self.releases = self.communicates and bool(modifiers & {"release", "acq_rel"})
        # Whether it may reach the shared memory of the cluster's other programs
        self.of_cluster = "shared::cluster" in modifiers or inst.space == "generic" or inst.op in ("cp", "red")
        self.what = f"{inst.op}.{inst.modifiers[0]}" if inst.op == "cp" else inst.op


def thread_of(active: Active, place: int) -> int:
    return place if active is None else int(active[place])


def check_alignment(addresses: np.ndarray, size: int, active: Active, what: str) -> None:
    if size > 1 and int(np.bitwise_or.reduce(addresses)) & (size - 1):
        k = int(np.flatnonzero(addresses & (size - 1))[0])
        message = f"{size}-byte {what} at misaligned address {int(addresses[k]):#x}"
        raise MisalignedError(message, thread_of(active, k))


class Bytes:
    """A piece of memory, seen as elements of every size."""

    def __init__(self, size: int) -> None:
        """Of at least 32 bytes more, so that vectors fit."""
        self.data = np.zeros((size + 63) // 32 * 32, np.uint8)
        self.views = {n: self.data.view(f"u{n}") for n in (1, 2, 4, 8)}
        self.vectors = {
            (n, count): self.views[n].reshape(-1, count) for n in (1, 2, 4, 8) for count in (2, 4, 8) if n * count <= 32
        }

    def load(self, offsets: np.ndarray, size: int, count: int) -> list[np.ndarray]:
        """The elements of a vector, each for all threads."""
        if count == 1:
            return [self.views[size][offsets >> LOG2[size]]]
        rows = self.vectors[size, count][offsets >> LOG2[size * count]]
        return list(np.ascontiguousarray(rows.T))

    def store(self, offsets: np.ndarray, size: int, columns: list[np.ndarray]) -> None:
        if len(columns) == 1:
            self.views[size][offsets >> LOG2[size]] = columns[0]
            return
        rows = np.empty((len(offsets), len(columns)), f"u{size}")
        for i, column in enumerate(columns):
            rows[:, i] = column
        self.vectors[size, len(columns)][offsets >> LOG2[size * len(columns)]] = rows


class Space(ABC):
    """Memory of a launch, whose bytes lie in one piece."""

    bytes: Bytes

    @abstractmethod
    def offsets(self, access: Access, addresses: np.ndarray, size: int, active: Active) -> np.ndarray:
        """Of the addresses among the bytes, if all of them may be accessed."""

    def read(self, access: Access, addresses: np.ndarray, size: int, count: int, active: Active) -> list[np.ndarray]:
        return self.bytes.load(self.offsets(access, addresses, size * count, active), size, count)

    def write(
        self, access: Access, addresses: np.ndarray, size: int, columns: list[np.ndarray], active: Active
    ) -> None:
        self.bytes.store(self.offsets(access, addresses, size * len(columns), active), size, columns)
