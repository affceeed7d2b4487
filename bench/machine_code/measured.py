"""What was measured on a GPU beside what `gpu_model.py` says of the same kernels, as Markdown.

    python bench/machine_code/measured.py > docs/predicted.md
    python bench/machine_code/measured.py --compile      # measured.jsonl anew, of the kernels that there are now

measured.jsonl has the launches of the kernels that were measured, as they were compiled from the sources of its commit:
kernels may change, what they were measured at does not. Needs Triton and nvcc to be made, nothing to be read.
"""

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gpu_model
import sm90_model
from gpu_model import Tile, Work

from fastpixcon.kernels.launch_table import Launch

WORKS = Path(__file__).with_name("measured.jsonl")
GPU = gpu_model.GPUS[90]
# Rows of the launch table that a sweep replaced, by (dtype, D): docs/gpu.md, kernels/launch_provenance.py.
BEFORE = {
    ("bfloat16", 64): {"sums": Launch(128, 64, 4, 3, 0, 64)},
    ("bfloat16", 128): {"sums": Launch(128, 64, 4, 3, 0, 64), "gradient": Launch(64, 128, 4, 2)},
    ("bfloat16", 512): {"sums": Launch(64, 64, 8, 2, 0, 64), "gradient": Launch(32, 32, 8, 2)},
    ("float32", 64): {"sums": Launch(64, 64, 8, 3, 32, 32), "gradient": Launch(32, 32, 8, 2, 32, 32)},
    ("float32", 128): {"sums": Launch(64, 64, 8, 3, 32, 32), "gradient": Launch(32, 32, 8, 2, 32, 32)},
    ("float32", 256): {"sums": Launch(64, 64, 8, 3, 32, 32), "gradient": Launch(32, 32, 8, 2, 32, 32)},
    ("float32", 512): {"sums": Launch(64, 64, 8, 3, 32, 32), "gradient": Launch(32, 16, 8, 2, 64, 16)},
}
SPILLING = {("bfloat16", 512): {"gradient": Launch(64, 64, 8, 2)}}
TABLES = {"after": {}, "before": BEFORE, "spilling": SPILLING}


class Measured(NamedTuple):
    backend: str
    dtype: str
    D: int
    N: int
    ms: float
    rows: str = "after"  # of TABLES
    forward: bool = False  # alone
    fitted: bool = False  # the constants of the model are fitted to it
    replayed: bool = True  # from a CUDA graph
    hosts: bool = False  # called, and the host takes longer than the GPU: no more than a bound

    @property
    def kernels(self) -> tuple[str, ...]:
        return ("sums", "positives") if self.forward else ("sums", "positives", "gradient")


def called(dtype: str, D: int, ms: float, rows: str = "after", forward: bool = False, fitted: bool = False) -> Measured:
    return Measured("Triton", dtype, D, 16384, ms, rows, forward, fitted, replayed=False)


# docs/gpu.md: one NVIDIA H200, November 2026.
MEASURED = [
    Measured("Triton", "bfloat16", 256, 1024, 0.172, fitted=True),
    Measured("Triton", "bfloat16", 256, 4096, 0.286),
    Measured("Triton", "bfloat16", 256, 8192, 0.56),
    Measured("Triton", "bfloat16", 256, 16384, 1.04),
    Measured("Triton", "bfloat16", 256, 65536, 11.0, fitted=True),
    called("bfloat16", 64, 1.01, "before", forward=True)._replace(hosts=True),
    called("bfloat16", 64, 0.93, forward=True)._replace(hosts=True),
    called("bfloat16", 128, 1.02, "before", forward=True)._replace(hosts=True),
    called("bfloat16", 128, 0.76, forward=True)._replace(hosts=True),
    called("bfloat16", 128, 2.18, "before")._replace(hosts=True),
    called("bfloat16", 128, 2.04)._replace(hosts=True),
    called("bfloat16", 512, 6.95, "before"),
    called("bfloat16", 512, 4.09, "spilling"),
    called("bfloat16", 512, 5.02, fitted=True),
    called("bfloat16", 512, 1.74, "before", forward=True),
    called("bfloat16", 512, 1.63, forward=True),
    Measured("Triton", "float32", 256, 1024, 0.494, "before"),
    Measured("Triton", "float32", 256, 4096, 1.75, "before", fitted=True),
    Measured("Triton", "float32", 256, 8192, 6.28, "before"),
    Measured("Triton", "float32", 256, 16384, 24.0, "before", fitted=True),
    called("float32", 64, 9.06, "before"),
    called("float32", 64, 4.62, fitted=True),
    called("float32", 128, 14.0, "before"),
    called("float32", 128, 8.23),
    called("float32", 256, 16.2),
    called("float32", 512, 57.6, "before"),
    called("float32", 512, 43.2),
    called("float32", 256, 4.29, "before", forward=True),
    called("float32", 256, 2.79, forward=True, fitted=True),
    Measured("CUDA", "bfloat16", 256, 1024, 0.150),
    Measured("CUDA", "bfloat16", 256, 4096, 0.295),
    Measured("CUDA", "bfloat16", 256, 8192, 0.70),
    Measured("CUDA", "bfloat16", 256, 16384, 1.69),
    Measured("CUDA", "bfloat16", 256, 65536, 20.9),
]
Key = tuple[str, str, int, int, str, str]  # backend, dtype, D, N, rows, kernel


def triton_works(row: Measured) -> Iterator[tuple[Key, Work]]:
    import ahead_of_time
    import torch
    from aot_problems import InfoNCE

    instead = TABLES[row.rows].get((row.dtype, row.D), {})
    with ahead_of_time.instead(instead):
        launches = InfoNCE(row.D, getattr(torch, row.dtype), N=row.N).launches(GPU.architecture)
    for launch in launches:
        kernel = launch.name.removeprefix("info_nce_").removesuffix("_kernel")
        if kernel in row.kernels:
            rows = row.rows if kernel in instead else "after"
            work = gpu_model.work_of(ahead_of_time.compile_launch(launch), row.N)
            yield ("Triton", row.dtype, row.D, row.N, rows, kernel), work


def cuda_works(row: Measured) -> Iterator[tuple[Key, Work]]:
    """Its positives go by tiles of the sums with masks, of their classes."""
    import cuda_model

    sums = cuda_model.work(cuda_model.sums_kernel(row.D, GPU), GPU, row.D, row.N)
    blocks = -(-row.N // sums.m)
    positives = sums._replace(kernel="positives", blocks=blocks, rows=sums.m, groups=0, plain=sums.masked)
    gradient = cuda_model.work(cuda_model.gradient_kernel(row.D, GPU), GPU, row.D, row.N)
    for work in (sums, positives, gradient):
        yield ("CUDA", row.dtype, row.D, row.N, "after", work.kernel), work


def compile_all() -> None:
    """A line a kernel."""
    found: dict[Key, Work] = {}
    for row in MEASURED:
        found |= dict(triton_works(row) if row.backend == "Triton" else cuda_works(row))
    with WORKS.open("w", encoding="utf-8") as file:
        for key, work in found.items():
            fields = work._asdict() | {"plain": vars(work.plain), "masked": vars(work.masked)}
            file.write(json.dumps([key, fields]) + "\n")


def works(path: Path = WORKS) -> dict[tuple[Any, ...], Work]:
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, fields = json.loads(line)
        for name in ("plain", "masked"):
            fields[name]["instructions"] = Counter(fields[name]["instructions"])
            fields[name] = Tile(**fields[name])
        found[tuple(key)] = Work(**fields)
    return found


def predicted(row: Measured, launches: dict[tuple[Any, ...], Work]) -> float:
    """Milliseconds, as expected."""
    total = gpu_model.REST * (0.5 if row.forward else 1.0)
    for kernel in row.kernels:
        key = (row.backend, row.dtype, row.D, row.N, row.rows, kernel)
        work = launches.get(key) or launches[(*key[:4], "after", kernel)]
        total += gpu_model.predict(work, GPU).seconds[1]
    return 1e3 * total


def spread(ratios: list[float]) -> float:
    """Root mean square of the logarithms: 0.1 is about 10 %."""
    return math.sqrt(sum(math.log(x) ** 2 for x in ratios) / len(ratios))


HEAD = """# Predicted beside measured

Written by `python bench/machine_code/measured.py`: what [](gpu.md) has of one NVIDIA H200 beside what `gpu_model.py`
says of the same kernels, by their machine code as Triton 3.8 and nvcc 13.0 make it (those that ran were Triton 3.6's).
The model is published rates and five constants, fitted to the rows that say so; the others were held out. What it
takes into account was chosen with all of Triton's rows in sight, and none of CUDA C++:

{constants}

Launch table: as it was before or after the sweep of [](gpu.md), or a row that spills. What is the host's is a bound and
no time of the GPU, and not in the spread. Of CUDA C++ the model has no float32, and positives go as its sums with masks
do. float32 is three products of TF32.

Spread, the root mean square of log(predicted / measured): fitted {fitted:.2f}, held out of Triton {Triton:.2f}, of
CUDA C++ {CUDA:.2f}.

| | rows | D | N | passes | launch table | | measured, ms | predicted, ms | ratio | |
|---|---|---|---|---|---|---|---|---|---|---|
"""
SM90 = """
## Kernels of sm_90a, which no card has run

**No figure of this part was measured, but those of the kernels of today.** `sm90_model.py` has what the same model
says of the kernels that `FASTPIXCON_HOPPER=1` asks for ([](support.md)). Cycles of a tile without masks, bfloat16: of
units alone; expected, with all that a warpgroup waits for; the same with masks; tensor cores over what is expected.

| | D | tile | tensor cores | shared memory | issue | exp, 1/x | expected | with masks | % |
|---|---|---|---|---|---|---|---|---|---|
{loops}
Of kernels with wgmma the model was checked by Triton's rows above, some of which say what a wait costs. It knows
nothing of warpgroups whose products queue, of products issued before the exponentials of the tile before (each wait is
taken as whole), of setmaxnreg, nor of copies in bulk and mbarriers, which cost no time here; a block of rows begins as
slowly as Triton's. No product is faster than torch.mm was: at N = 65,536 this alone bounds the gradient, {ceiling:.0f}
TFLOP/s executed. Today's kernels of CUDA C++ were slower than it says, all of them: beside what is predicted is what
it would be if those of sm_90a were off by as much at that N.

Forward and backward at D = 256, with the positives of today's kernels and rows laid out anew. TFLOP/s are useful ones,
of 4 N^2 D FLOP: {aim} are the aim at N = 65,536.

| N | today, measured, ms | today, predicted | sm_90a, predicted, ms | TFLOP/s | if off as today's, ms | TFLOP/s |
|---|---|---|---|---|---|---|
"""
AIM = 540
CONSTANTS = {
    "ISSUE_EVERY": "cycles between two instructions of a warp",
    "PRODUCT_WAIT": "cycles beyond the products that a warpgroup waits for a group of them",
    "LOAD_WAIT": "cycles that a load takes which nothing hides",
    "START": "such loads before the first tile of a block of rows, and after its last",
    "REST": "seconds of a step for all but the tiles, half of it forward",
}


def document() -> str:
    launches = works()
    rows, ratios = [], {"fitted": [], "Triton": [], "CUDA": []}
    for row in MEASURED:
        ms = predicted(row, launches)
        if not row.hosts:
            ratios["fitted" if row.fitted else row.backend].append(ms / row.ms)
        cells = [row.backend, row.dtype, row.D, f"{row.N:,}", "forward" if row.forward else "both", row.rows]
        cells += ["replayed" if row.replayed else "called", f"{row.ms:.3g}", f"{ms:.3g}", f"{ms / row.ms:.2f}"]
        cells.append("fitted" if row.fitted else "the host's" if row.hosts else "")
        rows.append(f"| {' | '.join(map(str, cells))} |\n")
    constants = "\n".join(f"- `{name}` = {getattr(gpu_model, name):g} {what}" for name, what in CONSTANTS.items())
    spreads = {name: spread(found) for name, found in ratios.items()}
    return HEAD.format(constants=constants, **spreads) + "".join(rows) + of_sm90(launches)


def of_sm90(launches: dict[tuple[Any, ...], Work]) -> str:
    new = works(sm90_model.WORKS)
    at = max(sm90_model.SIZES)
    loops = [sm90_model.loop_row(new[D, at, kernel]) for kernel in ("sums", "gradient") for D in sm90_model.SHAPES]
    rows = []
    for row in (row for row in MEASURED if row.backend == "CUDA"):
        today = predicted(row, launches)
        parts = [new[row.D, row.N, "sums"], new[row.D, row.N, "gradient"]]
        parts.append(launches["CUDA", row.dtype, row.D, row.N, row.rows, "positives"])
        seconds = gpu_model.REST + sm90_model.panels(row.N, row.D)
        seconds += sum(gpu_model.predict(work, GPU).seconds[1] for work in parts)
        cells = [f"{row.N:,}", f"{row.ms:.3g}", f"{today:.3g}"]
        for ms in (1e3 * seconds, 1e3 * seconds * row.ms / today):
            cells += [f"{ms:.3g}", f"{4 * row.N**2 * row.D / ms / 1e9:.0f}"]
        rows.append(f"| {' | '.join(cells)} |\n")
    ceiling = GPU.peak * GPU.sustained / 1e12
    return SM90.format(loops="".join(f"| {cells} |\n" for cells in loops), ceiling=ceiling, aim=AIM) + "".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="write measured.jsonl, of the present kernels")
    if parser.parse_args().compile:
        compile_all()
    else:
        print(document(), end="")


if __name__ == "__main__":
    main()
