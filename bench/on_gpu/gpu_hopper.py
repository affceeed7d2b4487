"""Kernels of sm_90a, which FASTPIXCON_HOPPER=1 asks for: are they taken, which are faster.

The variable is read once, so that times with it and without are those of two processes; a matmul in each tells whether
the clocks were the same.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gpu_checks
import torch
from gpu_times import milliseconds, step, table
from torch import Tensor

import fastpixcon as fpc
from fastpixcon.bench import measure, workloads
from fastpixcon.bench.workloads import Cell
from fastpixcon.ops import extension

VARIABLE = "FASTPIXCON_HOPPER"
KERNELS = ("info_nce_sums_sm90", "info_nce_gradient_sm90")
WIDTHS = (256, 128)
SIZES = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
MATMUL = "matmul"
Times = dict[str, float]  # seconds of "D, N" and of the matmul


def why_not() -> str:
    """ "" where there are such kernels for the GPU that is here."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        return "for GPUs of compute capability 9.0"
    built = extension.build.get("cuda architectures", "").split()
    if not any(name.startswith("9.0") for name in built):
        return f"the extension was built for {' '.join(built) or 'no GPU'}, not for 9.0"
    return ""


def problem(n: int, width: int, device: str) -> tuple[Tensor, Tensor]:
    return workloads.rows(Cell("self", n, dim=width, dtype="bfloat16"), device)[1:3]


def launched(call: Callable[[], object]) -> list[str]:
    """Names of the kernels that a call launches."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    return [event.key for event in profile.key_averages()]


def check_taken(device: str, width: int, n: int = 4096, names: Callable[..., list[str]] = launched) -> str:
    """Or else all that follows would be said of the kernels of every architecture."""
    if device == "cpu":
        return "nothing is launched on the CPU"
    found = names(step(fpc.functional.info_nce, *problem(n, width, device)))
    for kernel in KERNELS:
        assert any(kernel in name for name in found), f"no {kernel} among what was launched: {', '.join(found)}"
    return f"D = {width}: {', '.join(KERNELS)}"


def times(device: str, sizes: Sequence[int], widths: Sequence[int], repeat: int, peak_size: int, until: float) -> Times:
    """Forward and backward from a CUDA graph: medians; fewer of them when the time is up."""
    peak, _ = measure.matmul(peak_size, torch.bfloat16, device)
    found = {MATMUL: statistics.median(measure.seconds({MATMUL: peak}, repeat, device=device)[MATMUL])}
    for n in sizes:
        for width in widths:
            if time.monotonic() > until:
                return found
            replay = gpu_checks.capture(step(fpc.functional.info_nce, *problem(n, width, device)), device)
            found[f"{width}, {n}"] = statistics.median(
                measure.seconds({"ours": replay}, repeat, 2, device=device, until=until)["ours"]
            )
    return found


def print_times(
    device: str, seconds: float, sizes: Sequence[int] = SIZES, repeat: int = 15, peak_size: int = 8192
) -> None:
    """As JSON, for the process that asks both ways."""
    until = time.monotonic() + seconds
    print(json.dumps(gpu_checks.on("native", lambda: times(device, sizes, WIDTHS, repeat, peak_size, until))))


def asked(script: Path, seconds: float, wanted: bool) -> Times:
    """What print_times says in a process of its own."""
    environment = {**os.environ, VARIABLE: "1" if wanted else "0", "GPU_CHECK_SECONDS": str(seconds)}
    command = [sys.executable, str(script), "--step", "hopper-times-of"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compared(without: Times, of_sm90: Times) -> Iterator[str]:
    """TFLOP/s are of 4 N^2 D FLOP, the least of forward and backward."""
    yield "`info_nce`, forward and backward, bfloat16, self contrast, 19 classes; medians, replayed from CUDA graphs.\n"
    yield table("D", "N", "ms", "ms, sm_90a", "faster", "TFLOP/s, sm_90a")
    for key in without:
        if key == MATMUL or key not in of_sm90:
            continue
        width, n = map(int, key.split(", "))
        ours, other = of_sm90[key], without[key]
        cells = [str(width), f"{n:,}", milliseconds([other]), milliseconds([ours]), f"{other / ours:.2f} x"]
        yield f"| {' | '.join(cells)} | {4 * n * n * width / ours / 1e12:.3g} |"
    a, b = (milliseconds([times[MATMUL]]) for times in (without, of_sm90))
    yield f"\nThe same matmul in both processes: {a} and {b} ms."


def both_ways(script: Path, seconds: float) -> Iterator[str]:
    """The table, with the processes one after the other."""
    yield from compared(*(asked(script, seconds / 2 - 8, wanted) for wanted in (False, True)))
