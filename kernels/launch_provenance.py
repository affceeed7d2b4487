"""By what each row of the launch table won: measured, on which card, when, and against what; predicted; or assumed.

A row is known here by its values, so one that changes in launch_table.py has no provenance until it gets another, and
tests/kernels/test_launch_table.py prints the lines that are missing and those of rows that are no more.
FASTPIXCON_AUTOTUNE=1 prints lines of MEASURED; rows that no card has timed are in launch_unmeasured.py.
"""

import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton

from fastpixcon._version import __version__
from fastpixcon.kernels.launch_table import FAMILY, TABLES, Launch
from fastpixcon.kernels.launch_unmeasured import UNMEASURED


class Row(NamedTuple):
    """A row as kernels find it."""

    kernel: str  # of launch_table.HALF
    kind: str  # of rows, one of launch_table.TABLES
    family: int  # the architecture it is listed under
    width: int  # BLOCK_D
    launch: Launch


class Measured(NamedTuple):
    card: str
    date: str
    commit: str  # that brought it; of a line that was printed, the version that printed it
    ms: float
    timed: str  # what took so long
    rivals: dict[Launch, float]  # ms; not all that were tried
    tried: str  # how many were, and what else is to know

    def __str__(self) -> str:
        return f"{self.card}, {self.date}"


class Unmeasured(NamedTuple):
    word: str  # "predicted" or "assumed"
    commit: str  # that brought it

    def __str__(self) -> str:
        return self.word


H200 = ("NVIDIA H200", "2026-11-26", "ea3b5e0")
STEP, FORWARD = "forward and backward of 16,384 anchors, called", "forward of 16,384 anchors, called"
FEW = "three to six neighbours; the times of the others were not kept"
HOST = FEW + ". The host takes most of it: the difference may be its"
MEASURED = {
    Row("sums", "half", 90, 64, Launch(128, 64, 8, 3, 0, 64)): Measured(
        *H200, 0.93, FORWARD, {Launch(128, 64, 4, 3, 0, 64): 1.01}, HOST
    ),
    Row("sums", "half", 90, 128, Launch(128, 64, 8, 3, 0, 64)): Measured(
        *H200, 0.76, FORWARD, {Launch(128, 64, 4, 3, 0, 64): 1.02}, HOST
    ),
    Row("sums", "half", 90, 256, Launch(256, 64, 8, 2, 0, 64)): Measured(*H200, 2.61, STEP, {}, HOST),
    Row("sums", "half", 90, 512, Launch(64, 32, 4, 2, 0, 32)): Measured(
        *H200, 1.63, FORWARD, {Launch(64, 64, 8, 2, 0, 64): 1.74}, FEW
    ),
    Row("gradient", "half", 90, 128, Launch(64, 64, 4, 3, 0, 32)): Measured(
        *H200, 2.04, STEP, {Launch(64, 128, 4, 2): 2.18}, HOST
    ),
    Row("gradient", "half", 90, 256, Launch(128, 64, 8, 3, 0, 32)): Measured(*H200, 2.61, STEP, {}, HOST),
    Row("gradient", "half", 90, 512, Launch(32, 64, 8, 2, 0, 32)): Measured(
        *H200, 5.02, STEP, {Launch(64, 64, 8, 2): 4.09, Launch(32, 32, 8, 2): 6.95},
        FEW + ". The best that does not spill; the one of 4.09 ms does",
    ),
}  # fmt: skip


def rows() -> Iterator[Row]:
    """Of the launch table, as kernels find them."""
    for kind, table in TABLES.items():
        for kernel, families in table.items():
            for family, widths in families.items():
                for width, launch in widths.items():
                    yield Row(kernel, kind, family, width, launch)


def everything() -> dict[Row, Measured | Unmeasured]:
    found: dict[Row, Measured | Unmeasured] = {
        Row(kernel, kind, family, width, launch): Unmeasured(*by)
        for by, lines in UNMEASURED.items()
        for launch, kind, kernels, families, widths in lines
        for kernel in kernels.split()
        for family in families
        for width in widths
    }
    return found | MEASURED


def complaints() -> list[str]:
    """Lines of UNMEASURED that are missing, and rows that are here and not in the table."""
    here, there = everything(), list(rows())
    missing: dict[tuple[Launch, str, str, int], list[int]] = {}
    for kernel, kind, family, width, launch in there:
        if (kernel, kind, family, width, launch) not in here:
            missing.setdefault((launch, kind, kernel, family), []).append(width)
    found = [
        f'missing: ({launch.written()}, "{kind}", "{kernel}", ({family},), {tuple(widths)}),'
        for (launch, kind, kernel, family), widths in missing.items()
    ]
    return found + [f"not in the table: {row}" for row in here.keys() - set(there)]


def measured(kernel: str, architecture: int, kind: str, width: int, times: dict[Launch, float], near: int) -> str:
    """The line of MEASURED for the fastest of those that ran, whose times are ms; `near` were to be tried."""
    best, *others = sorted(times, key=lambda launch: times[launch])
    rivals = ", ".join(f"{launch.written()}: {times[launch]:.4g}" for launch in others[:3])
    row = f'Row("{kernel}", "{kind}", {FAMILY.get(architecture, 89)}, {width}, {best.written()})'
    of = f'"{torch.cuda.get_device_name()}", "{time.strftime("%Y-%m-%d")}", "{__version__}", {times[best]:.4g}'
    timed = f'"the kernel alone, Triton {triton.__version__}"'
    return f'{row}: Measured({of}, {timed}, {{{rivals}}}, "{near}, of which {len(times)} ran"),'
