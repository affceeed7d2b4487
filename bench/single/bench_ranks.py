"""Contrast across ranks against one process with all anchors, forward and backward, the same total work, in one run.

    fastpixcon bench ranks                      # 2 ranks of one thread against one process of two, 8,192 anchors
    fastpixcon bench ranks --ranks 4 --anchors 16384 --dtype bfloat16

The ranks are processes on this machine, of Gloo. One process and each mode take turns; ratios are medians over rounds.
"""

import argparse
import os
import statistics
import tempfile
import time
from typing import Any

import torch
import torch.distributed as dist

import fastpixcon as fpc
from fastpixcon.bench import measure

D, CLASSES = 256, 19


def rows_of(first: int, last: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(last, D, generator=generator)[first:]
    labels = torch.randint(CLASSES, (last,), generator=generator)[first:]
    return x.to(dtype).requires_grad_(), labels


def step(rows: torch.Tensor, labels: torch.Tensor, **where: Any) -> None:
    rows.grad = None
    fpc.functional.info_nce(rows, labels, **where).backward()


def rank(number: int, arguments: argparse.Namespace, file: str) -> None:
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=number, world_size=arguments.ranks)
    dtype = getattr(torch, arguments.dtype)
    n = arguments.anchors
    first, last = (n * r // arguments.ranks for r in (number, number + 1))
    own, whole = rows_of(first, last, dtype), rows_of(0, n, dtype) if number == 0 else None
    times: dict[str, list[float]] = {"one process": [], "gather": [], "ring": []}
    for turn in range(arguments.repeat + 1):
        for name, values in times.items():
            dist.barrier()
            torch.set_num_threads(threads if name == "one process" else max(1, threads // arguments.ranks))
            start = time.perf_counter()
            if name != "one process":
                step(*own, process_group=dist.group.WORLD, across=name)
            elif whole is not None:
                step(*whole)
            dist.barrier()
            if turn > 0:
                values.append(time.perf_counter() - start)
    if number == 0:
        line = f"{n} anchors {arguments.dtype}, {arguments.ranks} ranks: one process"
        line += f" {statistics.median(times['one process']):.4f} s"
        for name in ("gather", "ring"):
            line += f"  {name} {measure.ratio(times, name, 'one process'):.2f} x"
        print(line, flush=True)
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchors", type=int, default=8192, help="of all ranks together")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    print(measure.describe())
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(rank, (arguments, f"{folder}/meeting"), nprocs=arguments.ranks)


if __name__ == "__main__":
    main()
