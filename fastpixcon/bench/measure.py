"""Timing rivals against each other in one run, and the memory that a call adds at its peak; on the CPU or a GPU."""

import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

Call = Callable[[], object]
clock = time.perf_counter  # or time.process_time, where others use the machine too


def once(call: Call, device: str = "cpu") -> float:
    """Seconds of one call: on the CPU by ``clock``, on a GPU that was idle before, between two events."""
    if device == "cpu":
        start = clock()
        call()
        return clock() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    before.record()
    call()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1e3


def seconds(
    calls: dict[str, Call], repeat: int = 5, warm_up: int = 1, device: str = "cpu", until: float = float("inf")
) -> dict[str, list[float]]:
    """Seconds of every call, the rivals in turn, after the warm-up rounds; ``repeat`` values each, or fewer if
    ``time.monotonic()`` passes ``until``, but one."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeat + warm_up):
        if turn > warm_up and time.monotonic() > until:
            break
        for name, call in calls.items():
            value = once(call, device)
            if turn >= warm_up:
                times[name].append(value)
    return times


def ratio(times: dict[str, list[float]], rival: str, ours: str) -> float:
    """Median over the rounds of rival / ours: each round saw the same machine."""
    return statistics.median(r / o for r, o in zip(times[rival], times[ours], strict=True))


def matmul(size: int = 2048, dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Call, float]:
    """A square matrix product, the processor's practical peak, and its FLOP."""
    a, b = (torch.randn(size, size).to(device, dtype) for _ in range(2))
    return lambda: a @ b, 2.0 * size**3


def status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def peak_extra_bytes(call: Call, device: str = "cpu") -> int:
    """Memory at the highest point of ``call`` over what was there before: resident memory (Linux), or what PyTorch
    has allocated on the GPU."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - allocated
    ctypes.CDLL(None).malloc_trim(0)  # pages kept from earlier calls would hide what this one needs
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets VmHWM
    before = status("VmRSS")
    call()
    return max(0, status("VmHWM") - before)


def describe(device: str = "cpu") -> str:
    """The machine's line for a report."""
    if device != "cpu":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}"
