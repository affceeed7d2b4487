"""The machine of a run: what it is, and its rates, the roof over every time."""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import re
import statistics
import subprocess
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import workers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = (
    "torch", "numpy", "pytorch-metric-learning", "lightly", "info-nce-pytorch", "pykeops", "cut-cross-entropy",
    "liger-kernel", "siglip-kernel",
)  # fmt: skip
COPIED = 2**28  # bytes


def describe(device: str, threads: int) -> dict[str, Any]:
    """Of a run: everything that a time depends on."""
    import fastpixcon
    from fastpixcon.ops import extension

    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    with workers.open_worker(_measure, device, threads) as worker:
        measured = worker.ask(300)
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"),
        "fastpixcon": fastpixcon.__version__,
        "build": dict(extension.build),
        "python": platform.python_version(),
        "packages": versions,
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2),  # of others, before the start
        "device": device,
        **measured,
    }


def _measure(pipe: Connection, device: str, threads: int) -> None:
    """Main of a process: rates in TFLOP/s and GB/s on all threads; of registers alone where cpu_peak.cpp can tell."""
    import measure
    import torch

    workers._settle(threads, None)
    found: dict[str, Any] = {"isa": torch.backends.cpu.get_cpu_capability(), "memory_gib": _memory_gib()}
    if device != "cpu":
        found["gpu"] = torch.cuda.get_device_name()
    call, flop = measure.matmul(device=device)
    found["matmul_tflops"] = flop / min(measure.seconds({"": call}, 7, device=device)[""]) / 1e12
    a, b = torch.ones(COPIED // 4, device=device), torch.empty(COPIED // 4, device=device)
    copies = measure.seconds({"": lambda: b.copy_(a)}, 9, device=device)[""]
    found["bandwidth_gbs"] = 2 * COPIED / statistics.median(copies) / 1e9  # read and written
    if device == "cpu":
        found |= {f"{dtype}_peak_tflops": rate * threads for dtype, rate in _registers().items()}
    pipe.send((workers.OK, found))


def _registers() -> dict[str, float]:
    """TFLOP/s of a core by dtype; empty without a compiler or on another processor."""
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/cpu_peak"
        try:
            subprocess.run(["c++", "-O2", str(HERE / "cpu_peak.cpp"), "-o", program], check=True, capture_output=True)
            text = subprocess.run([program], check=True, capture_output=True, text=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return {}
    return {name: float(rate) for name, rate in re.findall(r"(\w+) +([\d.]+) TFLOP/s", text)}


def peak_tflops(run: dict[str, Any], dtype: str = "float32") -> float:
    """The roof: of registers where known (16-bit rows without units of their own are float32 products), else of a
    matmul."""
    return run.get(f"{dtype}_peak_tflops") or run.get("float32_peak_tflops") or run["matmul_tflops"]


def available_memory() -> int:
    return _meminfo("MemAvailable")


def _memory_gib() -> float:
    return round(_meminfo("MemTotal") / 2**30, 1)


def _meminfo(field: str) -> int:
    line = next(x for x in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines() if x.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    found = {}
    for line in lines:
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    numbers = ", ".join(f"{k} {found[k]}" for k in ("cpu family", "model") if k in found)
    return f"{found.get('model name', platform.machine())} ({numbers})"


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
