"""By what each row of the launch table won: measured, on which card, when, and against what; predicted; or assumed.

A row is known here by its values, so one that changes in launch_table.py has no provenance until it gets another, and
tests/kernels/test_launch_table.py prints the lines that are missing and those of rows that are no more.
FASTPIXCON_AUTOTUNE=1 prints lines of MEASURED.
"""

import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton

from fastpixcon._version import __version__
from fastpixcon.kernels.launch_table import FAMILY, HALF, TABLES, WIDTHS, Launch


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
    """Predicted: it spills nothing and is the fastest by bench/machine_code/gpu_model.py, as that was at the commit.
    Assumed: no time stands behind it; it spills nothing, and is a like kernel's row, or the largest near that."""

    word: str  # "predicted" or "assumed"
    commit: str  # that brought it

    def __str__(self) -> str:
        return self.word


ALL = tuple(HALF["sums"])  # architectures
MEMORY = "memory_sums memory_sums_online memory_sums_mined memory_positives"
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
# (word, commit) -> rows: launch, kind of rows, kernels, architectures, widths.
UNMEASURED: dict[tuple[str, str], list[tuple[Launch, str, str, tuple[int, ...], tuple[int, ...]]]] = {
    ("predicted", "b90358d"): [
        (Launch(128, 128, 8, 3, 32, 64), "halves", "sums", (90,), (256, 512)),
        (Launch(128, 32, 8, 2, 0, 16), "halves", "gradient", (90,), (256,)),
        (Launch(128, 64, 8, 1, 0, 32), "halves", "gradient", (100,), (64,)),
        (Launch(128, 64, 8, 2, 0, 32), "halves", "gradient", (90,), (128,)),
        (Launch(128, 64, 8, 2, 64, 32), "halves", "sums", (80,), (256, 512)),
        (Launch(32, 32, 4, 2, 0, 16), "halves", "gradient", (80,), (256,)),
        (Launch(32, 64, 8, 2, 64, 16), "halves", "gradient", (80, 90, 100), (512,)),
        (Launch(64, 32, 4, 2, 0, 16), "halves", "gradient", (80,), (128,)),
        (Launch(64, 32, 8, 1, 0, 16), "halves", "gradient", (100,), (256,)),
        (Launch(64, 64, 4, 1, 0, 64), "halves", "sums", (100,), (64,)),
        (Launch(64, 64, 4, 2, 0, 16), "halves", "gradient", (80,), (64,)),
        (Launch(64, 64, 4, 2, 0, 32), "halves", "sums", (80,), (128,)),
        (Launch(64, 64, 4, 2, 0, 64), "halves", "sums", (90,), (128,)),
        (Launch(64, 64, 4, 3, 0, 32), "halves", "gradient", (90,), (64,)),
        (Launch(64, 64, 4, 3, 0, 32), "halves", "sums", (80,), (64,)),
        (Launch(64, 64, 4, 3, 0, 64), "halves", "sums", (90,), (64,)),
        (Launch(64, 64, 8, 1, 0, 16), "halves", "gradient", (100,), (128,)),
        (Launch(64, 64, 8, 2, 64, 32), "halves", "sums", (100,), (128, 256, 512)),
    ],
    ("assumed", "b90358d"): [
        (Launch(128, 128, 8, 3, 32, 64), "halves", "sums", (90,), (1024,)),
        (Launch(128, 128, 8, 3, 32, 64), "halves", "sums_any", (90,), (256, 512, 1024)),
        (Launch(128, 32, 8, 2, 0, 16), "halves", "gradient_online", (90,), (256,)),
        (Launch(128, 64, 8, 1, 0, 32), "halves", "gradient_online", (100,), (64,)),
        (Launch(128, 64, 8, 2, 0, 32), "halves", "gradient_online", (90,), (128,)),
        (Launch(128, 64, 8, 2, 64, 32), "halves", "sums", (80,), (1024,)),
        (Launch(128, 64, 8, 2, 64, 32), "halves", "sums_any", (80,), (256, 512, 1024)),
        (Launch(16, 32, 4, 2, 0, 16), "halves", "gradient_ruled", (100,), (256,)),
        (Launch(16, 32, 4, 2, 0, 32), "halves", "gradient_mined", (89,), (256,)),
        (Launch(16, 32, 8, 2, 64, 32), "halves", "gradient_mined", ALL, (1024,)),
        (Launch(16, 64, 8, 2, 64, 16), "halves", "gradient gradient_online gradient_ruled", ALL, (1024,)),
        (Launch(32, 32, 4, 2, 0, 16), "halves", "gradient gradient_ruled", (89,), (256,)),
        (Launch(32, 32, 4, 2, 0, 16), "halves", "gradient_online", (80, 89), (256,)),
        (Launch(32, 32, 4, 2, 0, None), "halves", "positives", (100,), (64, 128)),
        (Launch(32, 32, 4, 2, 64, None), "halves", "positives", ALL, (256, 512, 1024)),
        (Launch(32, 32, 8, 2, 64, 32), "halves", "gradient_mined", ALL, (512,)),
        (Launch(32, 64, 8, 2, 0, 16), "halves", "gradient_online", (100,), (256,)),
        (Launch(32, 64, 8, 2, 0, 16), "halves", "gradient_ruled", (80, 90), (64, 128, 256)),
        (Launch(32, 64, 8, 2, 0, 16), "halves", "gradient_ruled", (89, 100), (64, 128)),
        (Launch(32, 64, 8, 2, 0, 64), "halves", "gradient_mined", (80, 90, 100), (64, 128, 256)),
        (Launch(32, 64, 8, 2, 0, 64), "halves", "gradient_mined", (89,), (64, 128)),
        (Launch(32, 64, 8, 2, 64, 16), "halves", "gradient", (89,), (512,)),
        (Launch(32, 64, 8, 2, 64, 16), "halves", "gradient_online gradient_ruled", ALL, (512,)),
        (Launch(64, 32, 4, 2, 0, 16), "halves", "gradient", (89,), (128,)),
        (Launch(64, 32, 4, 2, 0, 16), "halves", "gradient_online", (80, 89), (128,)),
        (Launch(64, 32, 4, 2, 0, None), "halves", "positives", (80, 89, 90), (64, 128)),
        (Launch(64, 32, 8, 2, 64, 16), "halves", "sums_ruled", ALL, WIDTHS),
        (Launch(64, 32, 8, 2, 64, 32), "halves", "sums_mined", ALL, WIDTHS),
        (Launch(64, 64, 4, 1, 0, 64), "halves", "sums_any", (100,), (64,)),
        (Launch(64, 64, 4, 2, 0, 16), "halves", "gradient", (89,), (64,)),
        (Launch(64, 64, 4, 2, 0, 16), "halves", "gradient_online", (80, 89), (64,)),
        (Launch(64, 64, 4, 2, 0, 32), "halves", "sums", (89,), (128,)),
        (Launch(64, 64, 4, 2, 0, 32), "halves", "sums_any", (80, 89), (128,)),
        (Launch(64, 64, 4, 2, 0, 64), "halves", "sums_any", (90,), (128,)),
        (Launch(64, 64, 4, 3, 0, 32), "halves", "gradient_online", (90,), (64,)),
        (Launch(64, 64, 4, 3, 0, 32), "halves", "sums", (89,), (64,)),
        (Launch(64, 64, 4, 3, 0, 32), "halves", "sums_any", (80, 89), (64,)),
        (Launch(64, 64, 4, 3, 0, 64), "halves", "sums_any", (90,), (64,)),
        (Launch(64, 64, 8, 1, 0, 16), "halves", "gradient_online", (100,), (128,)),
        (Launch(64, 64, 8, 2, 32, 32), "halves", "sums sums_any", (89,), (256, 512, 1024)),
        (Launch(64, 64, 8, 2, 64, 32), "halves", "sums", (100,), (1024,)),
        (Launch(64, 64, 8, 2, 64, 32), "halves", "sums_any", (100,), (128, 256, 512, 1024)),
    ],
    ("predicted", "6cd0d57"): [
        (Launch(32, 32, 4, 2), "half", "sums", (90,), (1024,)),
        (Launch(64, 32, 8, 2), "half", "gradient", (80,), (512,)),
        (Launch(32, 16, 8, 2), "half", "gradient", (90,), (1024,)),
    ],
    ("predicted", "e83837a"): [
        (Launch(128, 64, 4, 3, 0, 32), "half", "sums", (80,), (64, 128)),
        (Launch(128, 64, 8, 3, 0, 32), "half", "sums", (80,), (256,)),
        (Launch(64, 64, 8, 2, 0, 32), "half", "sums", (80,), (512,)),
        (Launch(32, 32, 8, 2), "half", "sums", (80,), (1024,)),
        (Launch(128, 128, 8, 3, 0, 32), "half", "sums", (89,), (64,)),
        (Launch(128, 64, 4, 2, 0, 32), "half", "sums", (89,), (128,)),
        (Launch(128, 32, 8, 2), "half", "sums", (89,), (256,)),
        (Launch(32, 32, 4, 2), "half", "sums", (89,), (512,)),
        (Launch(128, 64, 8, 3, 0, 64), "half", "sums", (100,), (64, 128, 256)),
        (Launch(64, 32, 8, 2, 0, 32), "half", "sums", (100,), (512,)),
        (Launch(64, 32, 4, 2, MASKED_N=None), "half", "positives", ALL, (64, 256)),
        (Launch(32, 32, 4, 2, MASKED_N=None), "half", "positives", ALL, (128,)),
        (Launch(32, 16, 4, 2, MASKED_N=None), "half", "positives", ALL, (512,)),
        (Launch(16, 16, 4, 2, MASKED_N=None), "half", "positives", ALL, (1024,)),
        (Launch(64, 128, 4, 2), "half", "gradient", (80,), (128,)),
        (Launch(64, 64, 4, 2), "half", "gradient", (80,), (256,)),
        (Launch(32, 16, 8, 2), "half", "gradient", (80,), (1024,)),
        (Launch(128, 64, 4, 3, 0, 32), "half", "gradient", (80, 90), (64,)),
        (Launch(64, 64, 4, 3, 0, 32), "half", "gradient", (89,), (64,)),
        (Launch(64, 64, 4, 3), "half", "gradient", (89,), (128,)),
        (Launch(128, 64, 8, 3, 0, 32), "half", "gradient", (100,), (128,)),
        (Launch(128, 64, 8, 2), "half", "gradient", (100,), (256,)),
    ],
    ("assumed", "2ae901e"): [
        (Launch(16, 16, 8, 2), "half", "gradient_mined", (89, 100), (1024,)),
        (Launch(64, 32, 8, 3, 32, 32), "float32", "sums_mined", ALL, WIDTHS),
        (Launch(32, 32, 8, 2, 32, 32), "float32", "gradient_mined", ALL, (64, 128)),
        (Launch(32, 16, 8, 2, 32), "float32", "gradient_mined", ALL, (256,)),
        (Launch(32, 16, 8, 2, 64), "float32", "gradient_mined", ALL, (512,)),
        (Launch(16, 16, 8, 2, 64), "float32", "gradient_mined", ALL, (1024,)),
    ],
    ("assumed", "4f0d048"): [
        (Launch(16, 16, 4, 2), "half", "sums", (89,), (1024,)),
        (Launch(32, 32, 4, 2), "half", "sums", (100,), (1024,)),
        (Launch(64, 64, 8, 2), "half", "gradient", (89,), (256,)),
        (Launch(32, 32, 8, 2), "half", "gradient", (89,), (512,)),
        (Launch(16, 16, 8, 2), "half", "gradient", (89, 100), (1024,)),
        (Launch(64, 64, 8, 3), "half", "gradient", (100,), (64,)),
        (Launch(64, 32, 8, 2), "half", "gradient", (100,), (512,)),
    ],
    ("assumed", "71b67f9"): [
        (Launch(16, 16, 8, 2, 64), "float32", "gradient_online", ALL, (1024,)),
        (Launch(32, 16, 8, 2, 64), "float32", "gradient_online", ALL, (512,)),
    ],
    ("assumed", "85d5932"): [
        (Launch(64, 128, 4, 2), "half", "memory_sums memory_sums_online", (80,), (128,)),
        (Launch(64, 32, 8, 2), "half", "memory_sums", (80,), (512,)),
        (Launch(32, 16, 8, 2), "half", MEMORY, (80, 90), (1024,)),
        (Launch(64, 64, 4, 3, 0, 32), "half", "memory_sums memory_sums_online memory_sums_mined", (89,), (64,)),
        (Launch(64, 64, 4, 3), "half", "memory_sums memory_sums_online", (89,), (128,)),
        (Launch(64, 64, 8, 2), "half", "memory_sums memory_sums_online memory_sums_mined", (89,), (256,)),
        (Launch(32, 32, 8, 2), "half", "memory_sums", (89, 90), (512,)),
        (Launch(16, 16, 8, 2), "half", MEMORY, (89, 100), (1024,)),
        (Launch(128, 64, 4, 3, 0, 32), "half", "memory_sums memory_sums_online", (90,), (64,)),
        (Launch(128, 64, 8, 3, 0, 32), "half", "memory_sums memory_sums_online", (90,), (256,)),
        (Launch(64, 64, 8, 3), "half", MEMORY, (100,), (64,)),
        (Launch(128, 64, 8, 3, 0, 32), "half", "memory_sums", (100,), (128,)),
        (Launch(16, 16, 4, 2), "half", "memory_sums_online memory_sums_mined memory_positives", (89,), (512,)),
        (Launch(32, 32, 8, 2), "half", "memory_sums_online memory_sums_mined memory_positives", (90,), (512,)),
        (Launch(128, 32, 8, 3), "half", "memory_sums_online memory_sums_mined memory_positives", (100,), (128,)),
        (Launch(32, 32, 8, 2, 32, 32), "float32", "memory_sums", ALL, (64, 128, 256)),
        (Launch(32, 16, 8, 2, 64), "float32", MEMORY, ALL, (512,)),
        (Launch(16, 16, 8, 2, 64), "float32", "memory_sums memory_sums_online memory_sums_mined", ALL, (1024,)),
        (Launch(32, 32, 8, 2, 32, 32), "float32", "memory_sums_online memory_sums_mined", ALL, (64, 128)),
        (Launch(32, 32, 8, 2, 32, 32), "float32", "memory_positives", ALL, (64, 128)),
    ],
    ("assumed", "965fc22"): [
        (Launch(64, 32, 8, 2), "half", "memory_sums_mined memory_positives", (80,), (128,)),
        (Launch(64, 32, 8, 3), "half", "memory_sums_mined memory_positives", (89,), (128,)),
        (Launch(64, 64, 8, 2), "half", "memory_sums_mined memory_positives", (90,), (128,)),
        (Launch(64, 64, 8, 2), "half", "mining_counts", ALL, (128,)),
    ],
    ("assumed", "bdcc92c"): [
        (Launch(128, 64, 8, 3), "half", "memory_sums memory_sums_online", (80,), (64,)),
        (Launch(64, 64, 8, 2), "half", "memory_sums", (80, 100), (256,)),
        (Launch(64, 128, 8, 2), "half", "memory_sums memory_sums_online", (90,), (128,)),
        (Launch(32, 32, 8, 2), "half", "memory_sums", (100,), (512,)),
        (Launch(64, 32, 8, 2), "half", "memory_sums_online memory_sums_mined", (80,), (256,)),
        (Launch(64, 16, 8, 2), "half", "memory_sums_online", (80, 100), (512,)),
        (Launch(64, 64, 8, 2), "half", "memory_sums_online memory_sums_mined memory_positives", (100,), (256,)),
        (Launch(128, 64, 8, 3), "half", "memory_sums_mined memory_positives", (80, 90), (64,)),
        (Launch(32, 32, 8, 2), "half", "memory_sums_mined", (80, 100), (512,)),
        (Launch(128, 32, 8, 3), "half", "memory_sums_mined memory_positives", (90,), (256,)),
        (Launch(32, 32, 8, 2), "half", "memory_positives", (80,), (512,)),
        (Launch(64, 32, 8, 2), "half", "memory_positives", (80, 89), (256,)),
        (Launch(64, 64, 8, 3), "half", "memory_positives", (89,), (64,)),
        (Launch(64, 16, 8, 2), "half", "memory_positives", (100,), (512,)),
        (Launch(16, 16, 4, 2), "half", "mining_counts", (89,), (1024,)),
    ],
    ("assumed", "e83837a"): [
        (Launch(128, 64, 4, 3, 0, 32), "half", "sums_any", (80,), (64, 128)),
        (Launch(64, 64, 8, 2, 0, 32), "half", "sums_any", (80,), (512,)),
        (Launch(32, 32, 8, 2), "half", "sums_any", (80,), (1024,)),
        (Launch(128, 64, 8, 3, 0, 32), "half", "sums_any", (80, 90), (256,)),
        (Launch(128, 128, 8, 3, 0, 32), "half", "sums_any", (89,), (64,)),
        (Launch(128, 64, 4, 2, 0, 32), "half", "sums_any", (89,), (128,)),
        (Launch(128, 32, 8, 2), "half", "sums_any", (89,), (256,)),
        (Launch(32, 32, 4, 2), "half", "sums_any", (89,), (512,)),
        (Launch(16, 16, 4, 2), "half", "sums_any", (89,), (1024,)),
        (Launch(128, 64, 8, 3, 0, 64), "half", "sums_any", (90,), (128,)),
        (Launch(32, 32, 4, 2), "half", "sums_any", (90, 100), (1024,)),
        (Launch(128, 64, 8, 3, 0, 64), "half", "sums_any", (100,), (64, 128, 256)),
        (Launch(64, 32, 8, 2, 0, 32), "half", "sums_any", (100,), (512,)),
        (Launch(16, 16, 4, 2), "half", "sums_online", (80,), (1024,)),
        (Launch(64, 32, 4, 2), "half", "sums_online", (80, 89), (256,)),
        (Launch(64, 16, 4, 2), "half", "sums_online", ALL, (512,)),
        (Launch(64, 64, 4, 2, 0, 32), "half", "sums_online", (80, 89, 100), (64, 128)),
        (Launch(32, 16, 4, 2), "half", "sums_online", (89, 90, 100), (1024,)),
        (Launch(64, 64, 4, 2, 0, 64), "half", "sums_online", (90,), (64, 128)),
        (Launch(128, 64, 8, 2, 0, 64), "half", "sums_online", (90,), (256,)),
        (Launch(64, 64, 8, 2, 0, 32), "half", "sums_online", (100,), (256,)),
        (Launch(64, 128, 4, 2), "half", "gradient_online", (80,), (128,)),
        (Launch(64, 32, 4, 2), "half", "gradient_online", (80,), (256,)),
        (Launch(128, 64, 4, 3, 0, 32), "half", "gradient_online", (80, 90), (64,)),
        (Launch(32, 16, 8, 2), "half", "gradient_online", (80, 90), (1024,)),
        (Launch(64, 32, 8, 2), "half", "gradient_online", (80, 100), (512,)),
        (Launch(64, 64, 4, 3, 0, 32), "half", "gradient_online", (89,), (64,)),
        (Launch(64, 64, 4, 3), "half", "gradient_online", (89,), (128,)),
        (Launch(64, 64, 8, 2), "half", "gradient_online", (89,), (256,)),
        (Launch(16, 16, 4, 2), "half", "gradient_online", (89,), (512,)),
        (Launch(16, 16, 8, 2), "half", "gradient_online", (89, 100), (1024,)),
        (Launch(128, 64, 8, 3, 0, 32), "half", "gradient_online", (90,), (256,)),
        (Launch(64, 64, 8, 3), "half", "gradient_online", (100,), (64,)),
        (Launch(128, 32, 8, 3), "half", "gradient_online", (100,), (128,)),
        (Launch(128, 64, 8, 2), "half", "gradient_online", (100,), (256,)),
        (Launch(64, 32, 8, 3, 32, 32), "float32", "sums_online", ALL, WIDTHS),
        (Launch(32, 32, 4, 2, 32, MASKED_N=None), "float32", "positives", ALL, WIDTHS),
        (Launch(32, 32, 8, 2, 32, 32), "float32", "gradient_online", ALL, (64, 128)),
        (Launch(32, 16, 8, 2, 32), "float32", "gradient_online", ALL, (256,)),
    ],
    ("assumed", "f24a6ea"): [
        (Launch(32, 16, 8, 2, 32), "float32", "memory_sums_online memory_sums_mined memory_positives", ALL, (256,)),
        (Launch(16, 16, 8, 2, 32), "float32", "memory_positives", ALL, (1024,)),
    ],
    ("assumed", "f535612"): [
        (Launch(16, 16, 4, 2), "half", "mining_counts", (80,), (1024,)),
        (Launch(64, 32, 4, 2), "half", "mining_counts", (80, 89), (256,)),
        (Launch(64, 16, 4, 2), "half", "mining_counts", ALL, (512,)),
        (Launch(64, 64, 4, 2, 0, 32), "half", "mining_counts", (80, 89, 100), (64,)),
        (Launch(64, 64, 4, 2, 0, 64), "half", "mining_counts", (90,), (64,)),
        (Launch(128, 64, 8, 2, 0, 64), "half", "mining_counts", (90,), (256,)),
        (Launch(32, 16, 4, 2), "half", "mining_counts", (90, 100), (1024,)),
        (Launch(64, 64, 8, 2, 0, 32), "half", "mining_counts", (100,), (256,)),
        (Launch(64, 32, 8, 3, 32), "float32", "mining_counts", ALL, WIDTHS),
    ],
    ("assumed", "f995f21"): [
        (Launch(64, 64, 8, 2, 0, 64), "half", "sums_mined", ALL, (64, 128)),
        (Launch(128, 32, 8, 2, 0, 32), "half", "sums_mined", ALL, (256,)),
        (Launch(64, 32, 8, 2, 0, 32), "half", "sums_mined", ALL, (512,)),
        (Launch(16, 16, 8, 2), "half", "sums_mined", ALL, (1024,)),
        (Launch(32, 32, 8, 2, 0, 32), "half", "gradient_mined", (80,), (256, 512)),
        (Launch(64, 32, 8, 2, 0, 32), "half", "gradient_mined", (80, 89), (64, 128)),
        (Launch(16, 16, 8, 2), "half", "gradient_mined", (80, 90), (1024,)),
        (Launch(32, 32, 8, 2, 0, 32), "half", "gradient_mined", (89,), (256,)),
        (Launch(32, 16, 8, 2), "half", "gradient_mined", (89,), (512,)),
        (Launch(64, 32, 8, 2, 0, 32), "half", "gradient_mined", (90,), (64, 128, 256)),
        (Launch(32, 32, 8, 2, 0, 32), "half", "gradient_mined", (90,), (512,)),
        (Launch(64, 32, 8, 2, 0, 32), "half", "gradient_mined", (100,), (64, 128, 512)),
        (Launch(128, 32, 8, 2, 0, 32), "half", "gradient_mined", (100,), (256,)),
    ],
    ("assumed", "ea3b5e0"): [
        (Launch(128, 64, 8, 3, 0, 64), "half", "sums_any", (90,), (64,)),
        (Launch(64, 32, 4, 2, 0, 32), "half", "sums_any", (90,), (512,)),
        (Launch(64, 64, 4, 3, 0, 32), "half", "gradient_online", (90,), (128,)),
        (Launch(32, 64, 8, 2, 0, 32), "half", "gradient_online", (90,), (512,)),
    ],
    ("assumed", "4fb9195"): [
        (Launch(128, 64, 8, 3), "half", "gradient_ruled", (90,), (128,)),
        (Launch(128, 32, 8, 2), "half", "gradient_ruled", (90,), (256,)),
    ],
    ("assumed", "8df2ec1"): [
        (Launch(64, 64, 8, 2), "half", "sums_ruled", (80,), (512,)),
        (Launch(128, 64, 8, 3), "half", "sums_ruled", (80, 90, 100), (64, 128, 256)),
        (Launch(32, 32, 8, 2), "half", "sums_ruled", (80, 90, 100), (1024,)),
        (Launch(128, 64, 8, 2), "half", "sums_ruled", (89,), (128,)),
        (Launch(128, 32, 8, 2), "half", "sums_ruled", (89,), (256,)),
        (Launch(32, 32, 8, 2), "half", "sums_ruled", (89,), (512,)),
        (Launch(16, 16, 8, 2), "half", "sums_ruled", (89,), (1024,)),
        (Launch(64, 32, 8, 2), "half", "sums_ruled", (90, 100), (512,)),
        (Launch(16, 16, 8, 2), "half", "sums_online_ruled", (80,), (1024,)),
        (Launch(64, 32, 8, 2), "half", "sums_online_ruled", (80, 89), (256,)),
        (Launch(64, 64, 8, 2), "half", "sums_online_ruled", (80, 89, 90), (64, 128)),
        (Launch(64, 16, 8, 2), "half", "sums_online_ruled", ALL, (512,)),
        (Launch(32, 16, 8, 2), "half", "sums_online_ruled", (89, 90, 100), (1024,)),
        (Launch(128, 64, 8, 2), "half", "sums_online_ruled", (90,), (256,)),
        (Launch(64, 64, 8, 2), "half", "sums_online_ruled", (100,), (64, 128, 256)),
        (Launch(64, 64, 8, 2), "half", "gradient_ruled", (80,), (128, 256)),
        (Launch(128, 64, 8, 3), "half", "gradient_ruled", (80, 90), (64,)),
        (Launch(32, 16, 8, 2), "half", "gradient_ruled", (80, 90), (1024,)),
        (Launch(64, 32, 8, 2), "half", "gradient_ruled", (80, 100), (512,)),
        (Launch(16, 16, 8, 2), "half", "gradient_ruled", (89,), (512, 1024)),
        (Launch(32, 64, 8, 2), "half", "gradient_ruled", (90,), (512,)),
        (Launch(64, 64, 8, 3), "half", "gradient_ruled", (100,), (64,)),
        (Launch(128, 32, 8, 3), "half", "gradient_ruled", (100,), (128,)),
        (Launch(128, 64, 8, 2), "half", "gradient_ruled", (100,), (256,)),
        (Launch(16, 16, 8, 2), "half", "gradient_ruled", (100,), (1024,)),
        (Launch(64, 32, 8, 3, 32), "float32", "sums_online_ruled", ALL, WIDTHS),
        (Launch(32, 32, 8, 2, 32, 32), "float32", "gradient_ruled", ALL, (64, 128)),
        (Launch(32, 16, 8, 2, 32), "float32", "gradient_ruled", ALL, (256,)),
        (Launch(32, 16, 8, 2, 64), "float32", "gradient_ruled", ALL, (512,)),
        (Launch(16, 16, 8, 2, 64), "float32", "gradient_ruled", ALL, (1024,)),
    ],
    ("assumed", "dc47722"): [
        (Launch(128, 64, 8, 3), "half", "sums_ruled", (89,), (64,)),
        (Launch(64, 64, 4, 3), "half", "gradient_ruled", (89,), (64,)),
        (Launch(64, 64, 8, 2), "half", "gradient_ruled", (89,), (128,)),
        (Launch(32, 32, 8, 2), "half", "gradient_ruled", (89,), (256,)),
    ],
}


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
