"""The CUDA kernels of info_nce: what the emulator counts in them, and how fast they are *predicted* to be, as Markdown.

    python bench/machine_code/cuda_model.py > docs/cuda-kernels.md

Instructions, bank conflicts and sectors are those that executing the PTX of sm_80 showed. Time is predicted by
``gpu_model.py`` from the machine code of each architecture, compiled once with nothing but the way through a tile that
needs no masks, and once with nothing but the other.
"""

import argparse
import functools
import re
from dataclasses import replace
from typing import Any, NamedTuple

import cuda_binary
import cuda_emulated
import gpu_model
import sass
import torch
from cuda_emulated import Case
from gpu_model import GPU, GPUS, Prediction, Tile, Work

PLAIN, MASKED = "std::false_type{}", "std::true_type{}"
SIZES = (1024, 8192, 65536, 1 << 20)
WIDTHS = (64, 128, 256, 512)
PANEL = 128  # bytes of a row that a loop takes at a time
MOST_GROUPS, MOST_PARTIAL_ROWS, SUMS_COLUMNS = 127, 32768, 128  # as csrc/cuda/host/info_nce.cpp has them


class Kernel(NamedTuple):
    """A kernel for bfloat16 rows and a fixed shift, as it runs at some width and architecture."""

    name: str
    source: str  # that makes this kernel
    symbol: str  # part of its own
    rows: int
    columns: int
    warps: int
    shared: int  # bytes a block
    keeps_rows: bool  # in shared memory, where that is a choice at run time
    choice: str  # what the way through a tile is chosen by, in the source


def sums_kernel(D: int, gpu: GPU) -> Kernel:
    row_bytes, limit = -(-2 * D // PANEL) * PANEL, cuda_binary.SHARED_LIMIT[gpu.architecture] - 4096
    stages = 3 * SUMS_COLUMNS * PANEL
    rows = 128 if 128 * row_bytes + stages <= limit else 64
    keeps = rows * row_bytes + stages <= limit
    shared = (rows * row_bytes if keeps else 3 * rows * PANEL) + stages + rows // 32 * SUMS_COLUMNS * 4
    source = '#include "cuda/info_nce_sums.cu"\n'
    symbol = f"ILi{rows}ELNS_9PrecisionE0ELb1E"
    return Kernel("sums", source, symbol, rows, SUMS_COLUMNS, rows // 16, shared, keeps, "add_up({});")


def gradient_kernel(D: int, gpu: GPU) -> Kernel:
    row_bytes = -(-2 * D // PANEL) * PANEL
    wide = row_bytes > 512
    large = not wide and cuda_binary.SHARED_LIMIT[gpu.architecture] >= 146 << 10
    shape = "WideTiles" if wide else "LargeTiles" if large else "SmallTiles"
    rows, columns, warps = {"WideTiles": (32, 32, 4), "LargeTiles": (128, 64, 8), "SmallTiles": (64, 32, 4)}[shape]
    shared = (rows + 2 * columns) * row_bytes + rows * columns * 2 + 2 * 4 * 4 * columns
    source = f"""#include "cuda/info_nce_gradient_half.cuh"
namespace fastpixcon {{
GradientLaunch only() {{ return gradient_launch<{shape}, __nv_bfloat16, Precision::kBFloat16, true>({row_bytes}); }}
}}
"""
    return Kernel("gradient", source, "PrecisionE0ELb1E", rows, columns, warps, shared, False, "fill_h({});")


@functools.cache
def compiled(kernel: Kernel, architecture: int, D: int, masked: bool) -> cuda_binary.Machine:
    """With one way through a tile only; and of the gradient's columns the products that D needs."""
    row_bytes = -(-2 * D // PANEL) * PANEL
    full = row_bytes in (512, 1024)
    edits = {kernel.choice.format(PLAIN if masked else MASKED): ""}
    if kernel.keeps_rows:
        edits["if (!resident) copy_panels"] = "if (false) copy_panels"
    if kernel.name == "gradient":
        edits[f"add_products({PLAIN if full else MASKED});"] = ""
        warps_side_by_side = 4 if row_bytes > 512 else 2
        edits["16 * kElement * q >= row_bytes"] = f"pair >= {row_bytes // (32 * warps_side_by_side)}"
    return cuda_binary.compile_source(kernel.source, architecture, edits, kernel.symbol)


def tile(kernel: Kernel, architecture: int, D: int, masked: bool) -> Tile:
    """Loops inside the loop over tiles are over panels: of products, run as often as the FLOP of a tile need, where an
    unrolled loop's remainder is counted, too; and of copies, without the remainder."""
    loops = sass.loops(compiled(kernel, architecture, D, masked).code)
    (tiles,) = [loop for loop in loops if any(inner in loop.inner for inner in sass.tensor_leaves(loops))]
    products = [inner for inner in tiles.inner if sass.has_tensor(inner)]
    copies = sorted((inner for inner in tiles.inner if not sass.has_tensor(inner)), key=lambda loop: len(loop.body))
    (loop,) = products
    needed = 2 * kernel.rows * kernel.columns * D * (2 if kernel.name == "gradient" else 1) // kernel.warps
    own, each = (sum(x.flop for x in body) for body in (tiles.own, loop.body))
    body = tiles.own + loop.body * -(-(needed - own) // each)
    body += [x for loop in copies[-1:] for x in loop.body]
    return replace(gpu_model.synchronous_tile(body, kernel.warps, exposed=False), products=needed * kernel.warps)


def best_splits(blocks: int, tiles: int, rows: int, sms: int) -> int:
    """As in the host code."""
    best, least = 1, -(-blocks // sms) * tiles
    for splits in range(2, min(tiles, MOST_PARTIAL_ROWS // rows) + 1):
        time = -(-blocks * splits // sms) * -(-tiles // splits)
        if 10 * time < 9 * least:
            best, least = splits, time
    return best


def work(kernel: Kernel, gpu: GPU, D: int, N: int) -> Work:
    """Where several blocks share the columns of one, each has its part of them."""
    plain, masked = (tile(kernel, gpu.architecture, D, m) for m in (False, True))
    registers = compiled(kernel, gpu.architecture, D, False).registers
    m, n = kernel.rows, kernel.columns
    rows, groups = m, 0
    if kernel.name == "sums":
        at_least = -(-N // MOST_GROUPS)
        rows = -(-at_least // SUMS_COLUMNS) * SUMS_COLUMNS
        groups = -(-N // rows) // 2 * 2 + 1
        blocks = groups * (groups // 2 + 1)
    else:
        blocks = -(-N // m)
        blocks *= best_splits(blocks, -(-N // n), N, gpu.sms)
    flop = 2 * m * n * D * (2 if kernel.name == "gradient" else 1)
    sizes = (m, n, n, flop, registers, kernel.shared, blocks, rows, groups)
    return Work(kernel.name, N, 2 * D, *sizes, plain, masked)


def predict(kernel: Kernel, gpu: GPU, D: int, N: int) -> Prediction:
    return gpu_model.predict(work(kernel, gpu, D, N), gpu)


CASES = [Case(torch.bfloat16, D) for D in (128, 256, 512)] + [Case(torch.float16, 256)]
CASES += [Case(torch.float32, D) for D in (128, 256)]


def share(profile: Any, *names: str) -> str:
    return f"{100 * sum(profile.by_class.get(name, 0) for name in names) / profile.total:.0f}"


def counts_row(case: Case, launch: Any) -> str:
    p = launch.profile
    name = re.search(r"info_nce_[a-z]+", launch.kernel)[0].removeprefix("info_nce_")
    cells = [name, str(case.dtype)[6:], case.D, f"{p.flops / (2 * case.N**2 * case.D):.2f}", share(p, "mma")]
    cells += [
        share(p, "ldmatrix"),
        share(p, "cp.async"),
        share(p, "ex2", "rcp", "lg2"),
        f"{p.bank_conflict_degree():.2f}",
    ]
    return " | ".join(map(str, [*cells, f"{100 * p.sector_efficiency():.0f}"]))


def percent(fraction: tuple[float, float]) -> str:
    return f"{100 * fraction[1]:.0f} to {100 * fraction[0]:.0f}"


def prediction_row(gpu: GPU, D: int, N: int) -> str:
    both = [predict(make(D, gpu), gpu, D, N) for make in (sums_kernel, gradient_kernel)]
    total = [sum(p.seconds[i] for p in both) for i in (0, 1)]
    cells = [cell for p in both for cell in (percent(p.fraction(gpu)), p.bound)]
    useful = tuple(4 * N * N * D / t / gpu.peak for t in total)
    return " | ".join(
        [gpu.name, str(D), f"{N:,}", *cells, f"{1e3 * total[0]:.3g} to {1e3 * total[1]:.3g}", percent(useful)]
    )


def table(head: str, rows: list[str]) -> list[str]:
    return [f"| {head} |", "|" + "---|" * len(head.split("|")), *(f"| {row} |" for row in rows)]


def document(architectures: list[int], widths: list[int]) -> str:
    counts = [counts_row(case, launch) for case in CASES for launch in cuda_emulated.launches(case)]
    kernels = [
        f"{k.name} | sm_{k.architecture} | {k.registers} | {k.shared} | {k.stack}"
        for k in sorted(cuda_binary.kernels(), key=lambda k: (k.name, k.architecture))
    ]
    rows = [
        prediction_row(GPUS[a], D, N) for a in GPUS if a in architectures for D in WIDTHS if D in widths for N in SIZES
    ]
    parts = [
        "# The CUDA kernels of info_nce",
        "",
        "Written by `python bench/machine_code/cuda_model.py` without a GPU.",
        "",
        "## Counted by executing them",
        "",
        "PTX of sm_80 in the emulator: self contrast of 512 sorted unit rows in classes of 128. FLOP: of tensor cores,",
        "over 2 N^2 D. Shares of all instructions, %. Conflicts: wavefronts of shared memory over the fewest there can",
        "be. Sectors: bytes asked for over bytes of the sectors they lie in, %.",
        "",
        *table("kernel | rows | D | FLOP | mma | ldmatrix | cp.async | exp, 1/x, log | conflicts | sectors", counts),
        "",
        "## Time, predicted",
        "",
        "**No time or fraction here was measured: they are predicted** by `gpu_model.py` from the machine code",
        "of the loops and published rates. Each is a range: from what is expected, with waits and queues, to all",
        "units of a multiprocessor overlapping. The waits are those of an H200, beside whose times [](predicted.md)",
        "has the expected ones, those of these kernels a fifth to a quarter too short; for other GPUs they are taken",
        "to be the same. Not for sm_100, whose tensor cores mma.sync does not reach.",
        "",
        f"bfloat16, {gpu_model.CLASSES} classes: sums (N^2 D FLOP) and gradient (4 N^2 D) over the dense peak, and the",
        "busiest unit. Useful: 4 N^2 D, the least that self contrast needs, over both.",
        "",
        *table("GPU | D | N | sums, % | bound | gradient, % | bound | both, ms | useful, %", rows),
        "",
        "## Built",
        "",
        "Registers a thread, static shared memory, spilled bytes. Dynamic shared memory: csrc/cuda.",
        "",
        *table("kernel | arch | registers | shared | spills", kernels),
    ]
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, nargs="+", default=[80, 89, 90])
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    arguments = parser.parse_args()
    print(document(arguments.architectures, arguments.widths), end="")


if __name__ == "__main__":
    main()
