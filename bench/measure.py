"""Timing rivals against each other in one run, and the memory that a call adds at its peak."""

import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

Call = Callable[[], object]


def seconds(
    calls: dict[str, Call], repeat: int = 5, warm_up: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Wall seconds of every call, or what else ``clock`` counts, the rivals in turn, after the warm-up rounds;
    ``repeat`` values each."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeat + warm_up):
        for name, call in calls.items():
            start = clock()
            call()
            if turn >= warm_up:
                times[name].append(clock() - start)
    return times


def seconds_alone(calls: dict[str, Call], repeat: int = 5) -> dict[str, list[float]]:
    """The same, one rival after the other, for calls whose time depends on the pages that the call before gave back
    to the system: in a training loop that is the same call."""
    times: dict[str, list[float]] = {}
    for name, call in calls.items():
        times |= seconds({name: call}, repeat, warm_up=2)
    return times


def ratio(times: dict[str, list[float]], rival: str, ours: str) -> float:
    """Median over the rounds of rival / ours: each round saw the same machine."""
    return statistics.median(r / o for r, o in zip(times[rival], times[ours], strict=True))


def matmul(size: int = 2048, dtype: torch.dtype = torch.float32) -> tuple[Call, float]:
    """A square matrix product, the processor's practical peak, and its FLOP."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    return lambda: a @ b, 2.0 * size**3


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def peak_extra_bytes(call: Call) -> int:
    """Resident memory at the highest point of ``call`` over what was resident before (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)  # pages kept from earlier calls would hide what this one needs
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def describe() -> str:
    """The machine's line for a report."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}"
