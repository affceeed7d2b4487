"""The CUDA kernels of info_nce in the emulator of ``tests/``: what they execute, in all and in a tile."""

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastpixcon.ops.backends import call
from fastpixcon.values import Rows, Rule, Statistics

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
from harness import compiled_cuda

CLASS = 128  # rows of each; no tile off the diagonal needs masks


class Case(NamedTuple):
    """Self contrast, sorted unit rows and a fixed shift, forward and backward."""

    dtype: torch.dtype
    D: int
    N: int = 512


class Recorder(compiled_cuda.Emulator):
    """Takes note of launches (name, grid, block, shared, arguments) instead of executing them."""

    calls: list[tuple[Any, ...]]

    def __init__(self, **limits: int) -> None:
        super().__init__(**limits)
        self.calls = []

    def __call__(self, *call: Any) -> None:
        self.calls.append(call)


def step(case: Case, emulator: compiled_cuda.Emulator) -> None:
    x = torch.nn.functional.normalize(torch.randn(case.N, case.D), dim=1).to(case.dtype)
    labels = torch.arange(case.N, dtype=torch.int32) // CLASS
    given = (Rows(x, labels), None, Rule(torch.tensor(0.1), "negatives", True, True), "unit")
    with compiled_cuda.launching(emulator):
        loss, *found = call("info_nce", x, "native", *given)
        call("info_nce_backward", x, "native", Statistics(torch.ones_like(loss), *found), *given, [True, False, False])


def launches(case: Case) -> list[Any]:
    """Of the kernels that multiply tiles, with their profiles."""
    torch.manual_seed(0)
    emulator = compiled_cuda.Emulator(multiprocessors=1)
    step(case, emulator)
    wanted = ("info_nce_sums", "info_nce_positives", "info_nce_gradient")
    return [launch for launch in emulator.launches if any(name in launch.kernel for name in wanted)]


# Places among the arguments, see csrc/cuda/info_nce.h.
SUMS_SIZE_X, SUMS_SIZE_Y, SUMS_GROUPS = 10, 11, 12
GRADIENT_TILES = 14


def _executed(call: tuple[Any, ...], grid: tuple[int, ...], numbers: dict[int, int]) -> Counter[str]:
    """A launch with another grid and some other numbers among its arguments."""
    name, _, block, shared, arguments = call
    changed = [numbers.get(i, argument) for i, argument in enumerate(arguments)]
    emulator = compiled_cuda.Emulator()
    emulator(name, grid, block, shared, changed)
    (launch,) = emulator.launches
    return Counter({**launch.profile.by_class, "flop": launch.profile.flops})


def executed_tile(kernel: str, D: int = 256, dtype: torch.dtype = torch.bfloat16) -> Counter[str]:
    """Instructions of all warps by kind, and FLOP, of a tile that needs no masks: what a block executes more for one
    tile more."""
    recorder = Recorder()
    recorder.multiprocessors = 1
    step(Case(dtype, D, N=768), recorder)
    (call,) = [call for call in recorder.calls if f"info_nce_{kernel}" in call[0]]
    if kernel == "gradient":
        columns = int(re.search(r"GradientShapeILi\d+ELi(\d+)E", call[0])[1])
        own = CLASS // columns  # the first tiles are of the first rows' class

        def run(tiles: int) -> Counter[str]:
            return _executed(call, (1, 1, 1), {GRADIENT_TILES: own + tiles})

        return run(2) - run(1)

    def off_diagonal(columns: int) -> Counter[str]:
        """Block (1, 0) of three groups: the rows of the last, the columns of the first."""
        sizes = {SUMS_SIZE_X: CLASS, SUMS_SIZE_Y: columns, SUMS_GROUPS: 3}
        return _executed(call, (2, 1, 1), sizes) - _executed(call, (1, 1, 1), sizes)

    return off_diagonal(2 * CLASS) - off_diagonal(CLASS)
