"""What a launch executed: instructions by class, bank conflicts, sectors per request."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .memory.addresses import Access
from .memory.agents import is_bulk
from .operands import Inst
from .types import HALVES, Active

if TYPE_CHECKING:
    from .machine import Machine

BANKS = 32  # of 4 bytes
BY_THEMSELVES = {"mma", "ldmatrix", "shfl", "vote", "match", "redux", "elect", "bra", "call", "ret", "setp", "selp"}
BY_THEMSELVES |= {
    "stmatrix",
    "mov",
    "cvt",
    "prmt",
    "lop3",
    "div",
    "ex2",
    "lg2",
    "rcp",
    "rsqrt",
    "sqrt",
    "sin",
    "cos",
    "tanh",
}


def class_of(inst: Inst) -> str:
    op = inst.op
    if op in BY_THEMSELVES:
        return op
    if op in ("wmma", "wgmma", "mbarrier"):
        return f"{op}.{inst.modifiers[0]}"
    if op == "cp":
        if is_bulk(inst):
            return "cp.async.bulk"
        return "cp.async" if {"ca", "cg"} & set(inst.modifiers) else "cp.async.sync"
    if op in ("ld", "st", "atom", "red"):
        return f"{op}.{inst.space}"
    if op in ("bar", "barrier"):
        return "bar.warp" if "warp" in inst.modifiers else "bar"
    type_ = next((x for x in reversed(inst.modifiers) if x in (*HALVES, "f32", "f64", "pred")), None)
    if type_ in ("f32", "f64") and op in ("add", "sub", "mul", "fma", "mad", "min", "max", "neg", "abs"):
        return f"{op}.{type_}"
    if type_ in HALVES:
        return "half"
    if type_ == "pred":
        return "pred logic"
    return "int mul/mad" if op in ("mul", "mad", "rem") else "int"


def distinct(values: np.ndarray) -> np.ndarray:
    """Marks in every row of ``values``, sorted, what differs from its left; negative ones count for nothing."""
    different = np.ones(values.shape, bool)
    different[:, 1:] = values[:, 1:] != values[:, :-1]
    return different & (values >= 0)


def wavefronts(words: np.ndarray) -> tuple[int, int]:
    """Of requests [requests, words], numbers of words or -1: with the bank conflicts they have, and without."""
    words = np.sort(words, axis=1)
    request, place = np.nonzero(distinct(words))
    banks = request * BANKS + words[request, place] % BANKS
    by_bank = np.bincount(banks, minlength=BANKS * len(words)).reshape(-1, BANKS)
    worst = by_bank.max(1, initial=0)
    return int(worst.sum()), int(np.count_nonzero(worst))


@dataclass
class Sample:
    """Of the first executions of an access."""

    space: str
    executions: int = 0
    measured: float = 0  # wavefronts, or sectors
    ideal: float = 0
    requests: int = 0


class Profiler:
    """Samples the address patterns of every access to shared and global memory."""

    def __init__(self, machine: "Machine", limit: int) -> None:
        self.machine = machine
        self.limit = limit
        self.samples: dict[Access, Sample] = {}
        self.is_paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        before, self.is_paused = self.is_paused, True
        try:
            yield
        finally:
            self.is_paused = before

    def sample(self, access: Access, space: str) -> Sample | None:
        sample = self.samples.get(access)
        if self.is_paused or self.limit == 0 or (sample is not None and sample.executions >= self.limit):
            return None
        sample = self.samples.setdefault(access, Sample(space))
        sample.executions += 1
        return sample

    def of_all_threads(self, addresses: np.ndarray, active: Active) -> np.ndarray:
        """With -1 for those that don't take part."""
        everyone = np.full(self.machine.threads, -1)
        everyone[slice(None) if active is None else active] = addresses
        return everyone

    def shared(self, access: Access, addresses: np.ndarray, size: int, active: Active) -> None:
        sample = self.sample(access, "shared")
        if sample is not None:
            threads = 32 if size <= 4 else 16 if size == 8 else 8  # of a request
            first = self.of_all_threads(addresses, active).reshape(-1, threads, 1)
            words = np.where(first >= 0, first // 4 + np.arange(max(1, size // 4)), -1)
            self.count_wavefronts(sample, words)

    def matrices(self, access: Access, addresses: np.ndarray) -> None:
        """Of ldmatrix: addresses of rows of 16 bytes."""
        sample = self.sample(access, "shared")
        if sample is not None:
            self.count_wavefronts(sample, addresses.reshape(-1, 8, 1) // 4 + np.arange(4))

    @staticmethod
    def count_wavefronts(sample: Sample, words: np.ndarray) -> None:
        measured, ideal = wavefronts(words.reshape(len(words), -1))
        sample.measured += measured
        sample.ideal += ideal
        sample.requests += ideal

    def globals(self, access: Access, addresses: np.ndarray, offsets: np.ndarray, size: int, active: Active) -> None:
        sample = None if is_bulk(access.inst) else self.sample(access, "global")
        if sample is not None:
            by_warp = self.of_all_threads(addresses, active).reshape(-1, 32)
            sectors = np.sort(np.where(by_warp >= 0, by_warp // 32, -1), axis=1)
            sample.measured += int(np.count_nonzero(distinct(sectors)))
            sample.ideal += int(np.count_nonzero(distinct(np.sort(by_warp, axis=1)))) * size / 32
            sample.requests += int(np.count_nonzero((by_warp >= 0).any(1)))


class MemoryUse(NamedTuple):
    """Of an access: wavefronts or sectors per request, and how many it needs."""

    line: int
    opcode: str
    space: str
    executions: int  # by warps
    measured: float
    ideal: float


class Profile:
    """Warp instructions executed, and how well their accesses to memory go."""

    def __init__(self, machine: "Machine") -> None:
        self.kernel, self.seconds = machine.entry.name, machine.seconds
        self.ctas, self.warps = machine.cta_count, machine.cta_warps
        self.by_class: Counter[str] = Counter()
        self.by_opcode: Counter[str] = Counter()
        self.by_line: Counter[int] = Counter()
        self.flops = 0  # of tensor cores
        for count, inst in zip(np.cumsum(machine.counts)[:-1].tolist(), machine.insts, strict=True):
            if count:
                self.add(inst, count)
        self.total = sum(self.by_class.values())
        self.memory = sorted(
            MemoryUse(
                access.line,
                access.inst.opcode,
                sample.space,
                self.by_line[access.line],
                sample.measured / sample.requests,
                sample.ideal / sample.requests,
            )
            for access, sample in machine.profiler.samples.items()
            if sample.requests
        )

    def add(self, inst: Inst, count: int) -> None:
        self.by_class[class_of(inst)] += count
        self.by_opcode[inst.opcode] += count
        self.by_line[inst.line] += count
        shape = re.search(r"\.m(\d+)n(\d+)k(\d+)\.", inst.opcode)
        if shape and (inst.op in ("mma", "wgmma") or inst.opcode.startswith("wmma.mma")):
            warps = 4 if inst.op == "wgmma" else 1
            self.flops += 2 * int(shape[1]) * int(shape[2]) * int(shape[3]) * count // warps

    def mean(self, space: str, column: str) -> float:
        """By executions; 0 without any."""
        used = [use for use in self.memory if use.space == space]
        executions = sum(use.executions for use in used)
        return sum(use.executions * getattr(use, column) for use in used) / executions if executions else 0.0

    def bank_conflict_degree(self) -> float:
        """Wavefronts per wavefront without conflicts."""
        return self.mean("shared", "measured") or 1.0

    def sectors_per_request(self) -> float:
        return self.mean("global", "measured")

    def sector_efficiency(self) -> float:
        """Bytes asked for / bytes of the sectors touched."""
        measured = self.mean("global", "measured")
        return self.mean("global", "ideal") / measured if measured else 0.0

    def __str__(self) -> str:
        lines = [
            f"{self.kernel}: {self.ctas} CTAs x {self.warps} warps, {self.total} warp instructions "
            f"({self.total / max(1, self.ctas * self.warps):.0f} per warp), emulated in {self.seconds:.2f} s"
        ]
        for name, count in self.by_class.most_common():
            lines.append(f"  {name:<16}{count:>12}  {100 * count / self.total:5.1f}%")
        if self.flops:
            lines.append(f"  FLOP of tensor cores: {self.flops:.4g}")
        lines.append(
            f"  shared bank-conflict degree {self.bank_conflict_degree():.2f}, global sectors per request "
            f"{self.sectors_per_request():.2f} (sector efficiency {100 * self.sector_efficiency():.0f}%)"
        )
        for use in self.memory:
            where = f"    line {use.line}: {use.opcode}:"
            if use.space == "shared" and use.measured > 1.01:
                lines.append(f"{where} {use.measured:.2f}-way bank conflicts, {use.executions} executions")
            elif use.space == "global" and use.measured > 1.5 * max(use.ideal, 1):
                needed = f"{use.ideal:.1f} needed, {use.executions} executions"
                lines.append(f"{where} {use.measured:.1f} sectors per request, {needed}")
        return "\n".join(lines)
