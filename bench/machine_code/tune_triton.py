"""Rows of the launch table by prediction: first the tiles that can fit, and what speaks against the others; then, of
those, what they compile to, the best printed first.

    python bench/machine_code/tune_triton.py --list                       # nothing is compiled
    python bench/machine_code/tune_triton.py --kernels gradient --architectures 80 90 --widths 256

A row counts if its kernel does not spill and fits. It is ranked by the time that is *expected* of it (gpu_model.py);
nothing is measured. All have the narrowest tiles with masks: wider ones are tried by hand where registers are left.
"""

import argparse
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import ahead_of_time as aot
import gpu_model
import torch
from aot_problems import InfoNCE

from fastpixcon.kernels.launch_table import Launch

N = 65536
REGISTERS = 200  # a thread for sums of products; of 255, what else there is takes the others
WARPGROUP_ROWS = 64  # of a product, for wgmma and tcgen05


class Kind(NamedTuple):
    """Of rows, as far as tiles are concerned."""

    dtype: torch.dtype
    element_bytes: int  # in shared memory, of all parts that an element is split into
    passes: int  # products for one of float32
    parts: tuple[int, ...]  # BLOCK_K: logits in parts of so many columns; 0: of whole rows


KINDS = {
    "bfloat16": Kind(torch.bfloat16, 2, 1, (0,)),
    "float32": Kind(torch.float32, 4, 3, (0, 32, 64)),
}


class Place(NamedTuple):
    """What a tile is wanted for."""

    kernel: str
    architecture: int
    D: int
    kind: Kind

    def __str__(self) -> str:
        return f"{self.kernel} sm_{self.architecture} D={self.D} {str(self.kind.dtype)[6:]}"


def asynchronous(place: Place, row: Launch) -> bool:
    """Whether products are wgmma's or tcgen05's. Sums lie on their side."""
    rows = row.BLOCK_N if place.kernel == "sums" else row.BLOCK_M
    return place.architecture in (90, 100) and rows >= WARPGROUP_ROWS


def shared_bytes(place: Place, row: Launch) -> int:
    """The least that it takes: a block's rows and the columns of so many tiles, or parts of both."""
    ahead = row.num_stages - (0 if asynchronous(place, row) else 1)  # tiles that Triton keeps
    if not row.BLOCK_K or row.BLOCK_K >= place.D:
        return (row.BLOCK_M + row.BLOCK_N * ahead) * place.D * place.kind.element_bytes
    return (row.BLOCK_M + row.BLOCK_N) * row.BLOCK_K * max(1, row.num_stages - 1) * place.kind.element_bytes


def registers(place: Place, row: Launch) -> int:
    """A thread's, for what is added up: logits and sums of rows; losses, weights and masses; gradients."""
    tiles = {"sums": 2, "positives": 4, "gradient": 1}[place.kernel] * row.BLOCK_M * row.BLOCK_N
    return (tiles + (row.BLOCK_M * place.D if place.kernel == "gradient" else 0)) // (32 * row.num_warps)


def against(place: Place, row: Launch) -> str | None:
    """What keeps a tile from fitting or from being any good; None: nothing that is known before it is compiled."""
    m, n, D = row.BLOCK_M, row.BLOCK_N, place.D
    if place.kernel == "sums" and m % n:
        return "columns that do not divide the rows"
    if shared_bytes(place, row) > aot.SHARED_LIMIT[place.architecture]:
        return f"more than {aot.SHARED_LIMIT[place.architecture] >> 10} KiB of shared memory"
    if registers(place, row) > REGISTERS:
        return f"more than {REGISTERS} registers for sums"
    if place.architecture in (90, 100) and D < 512 and place.kind.passes == 1 and not asynchronous(place, row):
        return "too few rows for wgmma or tcgen05" if place.kernel != "positives" else None
    if place.kernel == "positives" and (row.num_stages > 2 or n > 32 or m > 64):
        return "much arithmetic on few tiles"
    if place.kernel != "positives" and m * n * D * place.kind.passes < min(2048 * D, 256 * 1024):
        return "few products for what is loaded"
    return None


def tiles(place: Place) -> Iterator[Launch]:
    """All that are thought of."""
    sizes = (16, 32, 64, 128, 256)
    for m, n, warps, stages in itertools.product(sizes, sizes[:-1], (4, 8), (2, 3)):
        for part in place.kind.parts:
            if part < place.D:
                yield Launch(m, n, warps, stages, part, None if place.kernel == "positives" else 16)


def judged(place: Place) -> tuple[list[Launch], Counter[str]]:
    """Those that can fit; of the others, how many have what against them."""
    reasons = {row: against(place, row) for row in tiles(place)}
    return [row for row, why in reasons.items() if why is None], Counter(why for why in reasons.values() if why)


def described(place: Place, row: Launch) -> str:
    shared, limit = shared_bytes(place, row) >> 10, aot.SHARED_LIMIT[place.architecture] >> 10
    return f"{row.written():28} at least {shared} of {limit} KiB, {registers(place, row)} registers for sums"


class Candidate(NamedTuple):
    expected: float  # seconds
    overlapping: float
    row: Launch
    registers: int
    shared: int
    bound: str

    def __str__(self) -> str:
        facts = f"{self.registers} registers, {self.shared >> 10} KiB, {self.bound}"
        return f"{self.row.written():28} {1e3 * self.overlapping:.3g} to {1e3 * self.expected:.3g} ms  {facts}"


def judge(place: Place, row: Launch) -> Candidate | int:
    """Or how many instructions spill."""
    gpu = gpu_model.GPUS[place.architecture]
    with aot.instead({place.kernel: row}):
        launches = InfoNCE(place.D, place.kind.dtype, N=N).launches(place.architecture)
    compiled = aot.compile_launch(next(x for x in launches if place.kernel in x.name))
    if compiled.spills or compiled.shared > aot.SHARED_LIMIT[place.architecture]:
        return compiled.spills
    prediction = gpu_model.predict(gpu_model.work_of(compiled, N), gpu)
    overlapping, expected = prediction.seconds
    return Candidate(expected, overlapping, row, compiled.registers, compiled.shared, prediction.bound)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", nargs="+", default=["sums", "positives", "gradient"])
    parser.add_argument("--architectures", type=int, nargs="+", default=[80, 90], choices=sorted(gpu_model.GPUS))
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--rows", nargs="+", default=["bfloat16"], choices=KINDS)
    parser.add_argument("--list", action="store_true", help="the tiles that can fit, and no more")
    parser.add_argument("--show", type=int, default=3, help="the best so many")
    arguments = parser.parse_args()
    places = itertools.product(arguments.kernels, arguments.architectures, arguments.widths, arguments.rows)
    for kernel, architecture, D, kind in places:
        place = Place(kernel, architecture, D, KINDS[kind])
        fit, others = judged(place)
        print(f"{place}: {len(fit) + others.total()} tiles, {len(fit)} can fit", flush=True)
        for why, count in others.most_common():
            print(f"    {count:4} no: {why}")
        if arguments.list:
            print(*(f"    {described(place, row)}" for row in fit), sep="\n", flush=True)
            continue
        found = [(row, judge(place, row)) for row in fit]
        good = sorted(c for _, c in found if isinstance(c, Candidate))
        print(f"    {len(good)} compile without fault", flush=True)
        if not good:  # the nearest
            spills = sorted((c, row.written()) for row, c in found if isinstance(c, int))
            print(f"    all spill, least: {spills[:2]}", flush=True)
        for candidate in good[: arguments.show]:
            print(f"    {candidate}", flush=True)


if __name__ == "__main__":
    main()
