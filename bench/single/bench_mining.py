"""What mining costs: contrast with a memory bank, mined or not, forward and backward, time and memory, in one run.

    fastpixcon bench mining                      # 1,024 anchors, 19 classes x 10,000 rows, D = 256
    fastpixcon bench mining --dtypes float32 --repeat 5
    fastpixcon bench mining --memory             # peak memory instead of time
    fastpixcon bench mining --processor-time     # where others work too: one thread, seconds it ran itself

Without mining, and against others, it is a workload of the suite: fastpixcon bench --workloads bank.
"""

import argparse
import statistics
import time

import torch

import fastpixcon as fpc
from fastpixcon.bench import measure, peers
from fastpixcon.bench.workloads import Cell, rows

CLASSES = 19
MININGS = {
    "none": None,
    "semi-hard": fpc.Mining(),
    "hardest": fpc.Mining("hardest", "hardest"),
    "random": fpc.Mining("random", "random"),
}


def steps(cell: Cell, device: str, minings: list[str]) -> dict[str, measure.Call]:
    problem = rows(cell, device)
    x, y, bank = problem.anchors, problem.labels, peers.memory_bank(problem)

    def step(mining: fpc.Mining | None) -> None:
        x.grad = None
        fpc.functional.info_nce(x, y, memory=bank, mining=mining, contrast_with="memory").backward()

    return {name: lambda name=name: step(MININGS[name]) for name in minings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchors", type=int, default=1024)
    parser.add_argument("--places", type=int, default=10000, help="rows of the bank, a class")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--minings", nargs="*", default=["semi-hard", "hardest", "random"], choices=[*MININGS][1:])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--processor-time", action="store_true", help="one thread, and the time that it ran")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    if arguments.processor_time:
        measure.clock = time.process_time
        torch.set_num_threads(1)
    device, names = arguments.device, ["none", *arguments.minings]
    print(measure.describe(device))
    for dtype in arguments.dtypes:
        cell = Cell("bank", arguments.anchors, CLASSES * arguments.places, dtype=dtype, classes=CLASSES)
        calls = steps(cell, device, names)
        line = f"{cell.n} x {cell.m} {dtype:>9}"
        if arguments.memory:
            calls["none"]()
            for name, call in calls.items():
                line += f"  mining {name} {measure.peak_extra_bytes(call, device) / 2**20:.1f} MiB"
        else:
            times = measure.seconds(calls, arguments.repeat, device=device)
            line += f"  {statistics.median(times['none']):8.4f} s"
            line += "".join(
                f"  mining {name} {measure.ratio(times, name, 'none'):5.2f} x" for name in arguments.minings
            )
        print(line, flush=True)


if __name__ == "__main__":
    main()
