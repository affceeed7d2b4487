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

from fastpixcon.kernels import launch_provenance, launch_table

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "triton-kernels.md"
SIZES = (1024, 8192, 65536, 1 << 20)
PREDICTED_WIDTHS = (64, 128, 256, 512)
ROWS = [InfoNCE(D) for D in WIDTHS] + [InfoNCE(D, torch.float32) for D in WIDTHS]
HEAD = "kernel | arch | D | rows | tile | warps | stages | by"
FACTS = "registers | shared, KiB | spills | tensor | *predicted*, % of peak"
WANTED = ("sums", "positives", "gradient")


def short(launch: aot.Launch) -> str:
    return launch.name.removeprefix("info_nce_").removesuffix("_kernel")


def by(launch: aot.Launch, problem: InfoNCE) -> str:
    """By what the row of the launch table won."""
    kernel, architecture = short(launch), launch.architecture
    kind = "halves" if problem.dtype == torch.float32 else launch_table.kind(problem.dtype)
    row = launch_table.row(kernel, architecture, kind, problem.D)
    family = launch_table.FAMILY[architecture]
    return str(launch_provenance.everything()[launch_provenance.Row(kernel, kind, family, problem.D, row)])


def key(launch: aot.Launch, problem: InfoNCE) -> str:
    """The first columns: what is launched."""
    o = launch.tile
    rows = str(problem.dtype)[6:]
    tile = f"{o.BLOCK_M} x {o.BLOCK_N}" + (f" / {o.BLOCK_K}" if o.BLOCK_K < o.BLOCK_D else "")
    how = (launch.warps, launch.options["num_stages"], by(launch, problem))
    return " | ".join(map(str, (short(launch), f"sm_{launch.architecture}", problem.D, rows, tile, *how)))


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
    """From what is expected to full overlap of the units."""
    return f"{100 * fraction[1]:.0f} to {100 * fraction[0]:.0f}"


def facts(launch: aot.Launch, problem: InfoNCE) -> str:
    compiled = aot.compile_launch(launch)
    tensor = {x.base for x in compiled.code if x.pipe == "tensor"}
    gpu = gpu_model.GPUS.get(launch.architecture)
    predicted = "-"
    if gpu and problem.dtype != torch.float32 and short(launch) != "positives":
        predicted = percent(gpu_model.predict(gpu_model.work_of(compiled, problem.N), gpu).fraction(gpu))
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
        p = gpu_model.predict(gpu_model.work_of(aot.compile_launch(launch), N), gpu)
        seconds = [total + s for total, s in zip(seconds, p.seconds, strict=True)]
        cells += [percent(p.fraction(gpu)), p.bound]
    useful = tuple(4 * N * N * D / s / gpu.peak for s in seconds)
    time = f"{1e3 * seconds[0]:.3g} to {1e3 * seconds[1]:.3g}"
    of_matmul = f"{100 * useful[1] / gpu.sustained:.0f}" if gpu.sustained < 1 else "-"
    return " | ".join([gpu.name, str(D), f"{N:,}", *cells, time, percent((useful[0], useful[1])), of_matmul])


def predictions_table(architectures: list[int], widths: list[int]) -> list[str]:
    head = "GPU | D | N | sums, % | bound | gradient, % | bound | both, ms | useful, % | of torch.mm, %"
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
        "of the inner loops and published rates. Each is a range: from what is expected, with waits and queues, to all",
        "units of a multiprocessor overlapping. The waits are those of an H200, beside whose times [](predicted.md)",
        "has the expected ones; for other GPUs they are taken to be the same.",
        "",
        "## Kernels",
        "",
        "Self contrast, sorted unit rows, temperature >= 0.025, N = 65,536. Spills: instructions of the whole kernel.",
        "Tile: BLOCK_M x BLOCK_N, / BLOCK_K where logits come in parts. Peak: dense bfloat16 with float32 sums.",
        "By: the card on which the row won and when; or that it was *predicted* to, or *assumed* without any time",
        "(`kernels/launch_provenance.py`). Rows of float32 are multiplied as two float16 halves, in three products; if",
        "TF32 is allowed, as float16.",
        "",
        *kernels_table(architectures, widths),
        "",
        "## Time, predicted",
        "",
        f"bfloat16, {gpu_model.CLASSES} classes. Of the kernels sums (N^2 D FLOP) and gradient (4 N^2 D): these FLOP",
        "over the dense peak, and the busiest unit. Useful: 4 N^2 D, the least that self contrast needs, over both;",
        "of torch.mm: as expected, over what products of 8,192 x 8,192 reached where that was measured.",
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
