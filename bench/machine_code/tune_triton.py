"""Rows of the launch table by prediction: the neighbours of a row compiled ahead of time, the best printed first.

    python bench/machine_code/tune_triton.py --kernels gradient --architectures 80 90 --widths 256

A row counts if the kernel does not spill and fits. It is ranked by the geometric mean of its two *predicted* times,
without and with overlap (see gpu_model.py); nothing is measured.
"""

import argparse
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import ahead_of_time as aot
import gpu_model
from aot_problems import InfoNCE

from fastpixcon.kernels import launch_table
from fastpixcon.kernels.launch_table import Launch

N = 65536


class Candidate(NamedTuple):
    score: float  # of the dense peak
    range: tuple[float, float]
    row: Launch
    registers: int
    shared: int
    blocks: int
    bound: str

    def __str__(self) -> str:
        low, high = self.range[1], self.range[0]
        facts = f"{low:.2f} to {high:.2f}  {self.registers} registers, {self.shared >> 10} KiB, {self.blocks} blocks"
        return f"{tuple(self.row)!s:26} {facts}, {self.bound}"


def rows(kernel: str, architecture: int, D: int) -> Iterator[Launch]:
    """Those that can fit."""
    warpgroups = architecture in (90, 100)  # their tensor instructions take 64 rows
    for m, n, warps, stages in itertools.product((16, 32, 64, 128), (16, 32, 64, 128), (4, 8), (2, 3)):
        tiles = stages if architecture == 90 else stages - 1
        fits = (m + n * tiles) * D * 2 <= aot.SHARED_LIMIT[architecture]
        values = m * n / warps / 32 + (m * D / warps / 32 if kernel == "gradient" else 0)  # registers for them
        size = min(64 * D, 256 * 1024 // 32) <= m * n * D / 32 and (m >= 64 or not warpgroups or D >= 1024)
        if kernel == "positives" and (stages > 2 or n > 32 or m > 64):  # much arithmetic on few tiles
            continue
        if n <= m and fits and values <= 200 and size:
            yield Launch(m, n, warps, stages)


def judge(kernel: str, architecture: int, D: int, row: Launch) -> Candidate | int:
    """Or how many instructions spill."""
    gpu = gpu_model.GPUS[architecture]
    before = launch_table.row
    launch_table.row = lambda *_: row
    try:
        launches = InfoNCE(D, N=N).launches(architecture)
    finally:
        launch_table.row = before
    launch = next(x for x in launches if kernel in x.name)
    compiled = aot.compile_launch(launch)
    if compiled.spills or compiled.shared > aot.SHARED_LIMIT[architecture]:
        return compiled.spills
    tile = gpu_model.tile_of(gpu_model.tile_loops(compiled)[0], launch)
    blocks = gpu_model.resident(compiled, gpu)
    if kernel == "positives":  # a sweep over its class: how fast a tile goes is all there is
        cycles = tile.overlapping(gpu), max(tile.overlapping(gpu), tile.serial(gpu) / blocks)
        fraction = tuple(gpu_model.tile_flop(launch) / gpu.tensor / c for c in cycles)
        bound = tile.busiest(gpu)
    else:
        prediction = gpu_model.predict(compiled, gpu, N)
        fraction, bound = prediction.fraction(gpu), prediction.bound
    score = math.sqrt(fraction[0] * fraction[1])
    return Candidate(score, fraction, row, compiled.registers, compiled.shared, blocks, bound)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", nargs="+", default=["sums", "positives", "gradient"])
    parser.add_argument("--architectures", type=int, nargs="+", default=[80, 90], choices=sorted(gpu_model.GPUS))
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--show", type=int, default=3, help="the best so many")
    arguments = parser.parse_args()
    for kernel in arguments.kernels:
        for architecture in arguments.architectures:
            for D in arguments.widths:
                judged = [(row, judge(kernel, architecture, D, row)) for row in rows(kernel, architecture, D)]
                good = sorted((c for _, c in judged if isinstance(c, Candidate)), reverse=True)
                print(f"{kernel} sm_{architecture} D={D}: {len(judged)} rows, {len(good)} without fault", flush=True)
                if not good:  # the nearest
                    spills = sorted((c, row) for row, c in judged if isinstance(c, int))
                    print(f"    all spill, least: {spills[:2]}", flush=True)
                for candidate in good[: arguments.show]:
                    print(f"    {candidate}", flush=True)


if __name__ == "__main__":
    main()
