"""The Triton kernels as compiled for every architecture, and how fast they are *predicted* to be, as Markdown.

    python bench/machine_code/triton_table.py > docs/triton-kernels.md
    python bench/machine_code/triton_table.py --check              # is that file of today's launch table?
    python bench/machine_code/triton_table.py --architectures 90 --widths 256

No GPU is needed. Registers depend on the version of ptxas, so --check compares what is launched, not what came out.
"""

import argparse
import sys
from pathlib import Path

import ahead_of_time as aot
import gpu_model
import torch
import triton
from aot_problems import WIDTHS, InfoNCE

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "triton-kernels.md"
SIZES = (1024, 8192, 65536, 1 << 20)
PREDICTED_WIDTHS = (64, 128, 256, 512)
ROWS = [InfoNCE(D) for D in WIDTHS] + [InfoNCE(D, torch.float32) for D in WIDTHS]
HEAD = "kernel | arch | D | rows | tile | warps | stages"
FACTS = "registers | shared, KiB | spills | tensor | *predicted*, % of peak"
WANTED = ("sums", "positives", "gradient")


def short(launch: aot.Launch) -> str:
    return launch.name.removeprefix("info_nce_").removesuffix("_kernel")


def key(launch: aot.Launch, problem: InfoNCE) -> str:
    """The first columns: what is launched."""
    o = launch.tile
    rows = str(problem.dtype)[6:]
    tile = f"{o.BLOCK_M} x {o.BLOCK_N}" + (f" / {o.BLOCK_K}" if o.BLOCK_K < o.BLOCK_D else "")
    stages = launch.options["num_stages"]
    cells = (short(launch), f"sm_{launch.architecture}", problem.D, rows, tile, launch.warps, stages)
    return " | ".join(map(str, cells))


def launches(architectures: list[int], widths: list[int]) -> list[tuple[str, aot.Launch, InfoNCE]]:
    found = []
    for problem in ROWS:
        if problem.D not in widths:
            continue
        for architecture in architectures:
            if problem.dtype == torch.float32 and architecture not in (80, 89, 90, 100):
                continue  # the rows of 89, and code much like its
            for launch in problem.launches(architecture):
                if short(launch) in WANTED:
                    found.append((key(launch, problem), launch, problem))
    return found


def percent(fraction: tuple[float, float]) -> str:
    """From no overlap to full overlap of the units."""
    return f"{100 * fraction[1]:.0f} to {100 * fraction[0]:.0f}"


def facts(launch: aot.Launch, problem: InfoNCE) -> str:
    compiled = aot.compile_launch(launch)
    tensor = {x.base for x in compiled.code if x.pipe == "tensor"}
    gpu = gpu_model.GPUS.get(launch.architecture)
    predicted = "-"
    if gpu and problem.dtype != torch.float32 and short(launch) != "positives":
        predicted = percent(gpu_model.predict(compiled, gpu, problem.N).fraction(gpu))
    shared, names = f"{compiled.shared / 1024:.0f}", ", ".join(sorted(tensor)) or "-"
    cells = (compiled.registers, shared, compiled.spills, names, predicted)
    return " | ".join(map(str, cells))


def kernels_table(architectures: list[int], widths: list[int]) -> list[str]:
    head = f"{HEAD} | {FACTS}"
    lines = [f"| {head} |", "|" + "---|" * len(head.split("|"))]
    return lines + [f"| {k} | {facts(launch, problem)} |" for k, launch, problem in launches(architectures, widths)]


def prediction_row(gpu: gpu_model.GPU, D: int, N: int) -> str:
    seconds, cells = [0.0, 0.0], []
    for launch in InfoNCE(D, N=N).launches(gpu.architecture):
        if short(launch) not in ("sums", "gradient"):
            continue
        p = gpu_model.predict(aot.compile_launch(launch), gpu, N)
        seconds = [total + s for total, s in zip(seconds, p.seconds, strict=True)]
        cells += [percent(p.fraction(gpu)), p.bound]
    useful = tuple(4 * N * N * D / s / gpu.peak for s in seconds)
    time = f"{1e3 * seconds[0]:.3g} to {1e3 * seconds[1]:.3g}"
    return " | ".join([gpu.name, str(D), f"{N:,}", *cells, time, percent((useful[0], useful[1]))])


def predictions_table(architectures: list[int], widths: list[int]) -> list[str]:
    head = "GPU | D | N | sums, % | bound | gradient, % | bound | both, ms | useful, %"
    lines = [f"| {head} |", "|" + "---|" * len(head.split("|"))]
    for architecture, gpu in gpu_model.GPUS.items():
        if architecture in architectures:
            lines += [f"| {prediction_row(gpu, D, N)} |" for D in PREDICTED_WIDTHS if D in widths for N in SIZES]
    return lines


def document(architectures: list[int], widths: list[int]) -> str:
    version = aot.tool_version("ptxas"), aot.tool_version("ptxas-blackwell")
    parts = [
        "# The Triton kernels of info_nce, compiled ahead of time",
        "",
        "Written by `python bench/machine_code/triton_table.py` without a GPU: "
        f"Triton {triton.__version__}, ptxas {version[0]}, for sm_100 and sm_120 {version[1]}.",
        "**No time or fraction here was measured: they are predicted** by `gpu_model.py` from the instructions",
        "of the inner loops and published rates. Each is a range: from products and the rest taking turns in a block,",
        "to all units of a multiprocessor overlapping.",
        "",
        "## Kernels",
        "",
        "Self contrast, sorted unit rows, temperature >= 0.025, N = 65,536. Spills: instructions of the whole kernel.",
        "Tile: BLOCK_M x BLOCK_N, / BLOCK_K where logits come in parts. Peak: dense bfloat16 with float32 sums.",
        "Rows of float32 are multiplied as two float16 halves, in three products; if TF32 is allowed, as float16.",
        "",
        *kernels_table(architectures, widths),
        "",
        "## Time, predicted",
        "",
        f"bfloat16, {gpu_model.CLASSES} classes. Of the kernels sums (N^2 D FLOP) and gradient (4 N^2 D): these FLOP",
        "over the dense peak, and the busiest unit. Useful: 4 N^2 D, the least that self contrast needs, over both.",
        "",
        *predictions_table(architectures, widths),
    ]
    return "\n".join(parts) + "\n"


def stale(text: str) -> list[str]:
    """Launches that the document does not have, and rows that nothing launches."""
    wanted = [k for k, _, _ in launches(list(aot.ARCHITECTURES), list(WIDTHS))]
    columns = len(HEAD.split("|"))
    there = [" | ".join(c.strip() for c in line.split("|")[1 : columns + 1]) for line in text.splitlines()]
    there = [row for row in there if row.split(" ")[0] in WANTED]
    return sorted(set(wanted) ^ set(there))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="say whether docs/triton-kernels.md is of this table")
    parser.add_argument("--architectures", type=int, nargs="+", default=list(aot.ARCHITECTURES))
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    arguments = parser.parse_args()
    if arguments.check:
        differences = stale(DOCUMENT.read_text(encoding="utf-8"))
        sys.exit(f"{DOCUMENT.name} is out of date:\n" + "\n".join(differences) if differences else 0)
    print(document(arguments.architectures, arguments.widths), end="")


if __name__ == "__main__":
    main()
