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

from fastpixcon.bench import workers

HERE = Path(__file__).resolve().parent
PACKAGES = (
    "torch", "numpy", "pytorch-metric-learning", "lightly", "info-nce-pytorch", "pykeops", "cut-cross-entropy",
    "liger-kernel", "memeff", "inf-cl",
)  # fmt: skip
COPIED = 2**28  # bytes
ZEN = {  # family of AMD -> (from which model on, name), as Linux tells them apart
    0x17: ((0x00, "zen"), (0x30, "zen2"), (0x50, "zen"), (0x60, "zen2")),
    0x19: ((0x00, "zen3"), (0x10, "zen4"), (0x20, "zen3"), (0x60, "zen4")),
    0x1A: ((0x00, "zen5"), (0x50, "zen6"), (0x60, "zen5"), (0x80, "zen6")),
}
WIDEST = {"amx": "amx_bf16", "avx512_bf16": "avx512_bf16", "avx512": "avx512f", "avx2": "avx2"}  # name -> flag


def repository() -> Path | None:
    """The checkout that this package lies in; None where it is installed without one."""
    root = HERE.parents[1]
    return root if (root / "bench" / "results").is_dir() else None


def folder_name(device: str) -> str:
    """Of the results of this machine: its processor, or its GPU."""
    if device != "cpu":
        import torch

        return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    return processor_name(_cpuinfo())


def processor_name(cpuinfo: dict[str, str]) -> str:
    """By the generation of AMD's processors, of others by their widest instruction set."""
    if cpuinfo.get("vendor_id") == "AuthenticAMD":
        model = int(cpuinfo.get("model", "0"))
        names = [name for first, name in ZEN.get(int(cpuinfo.get("cpu family", "0")), ()) if first <= model]
        if names:
            return names[-1]
    flags = cpuinfo.get("flags", "").split()
    return next((name for name, flag in WIDEST.items() if flag in flags), platform.machine())


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
        "commit": _commit(),
        "fastpixcon": fastpixcon.__version__,
        "build": dict(extension.build),
        "python": platform.python_version(),
        "packages": versions,
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2),  # of others, before the start
        "device": device,
        **measured,
    }


def _measure(pipe: Connection, device: str, threads: int) -> None:
    """Main of a process: rates in TFLOP/s and GB/s on all threads; of registers alone where cpu_peak.cpp can tell."""
    import torch

    from fastpixcon.bench import measure

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


def processor() -> str:
    """Name and numbers."""
    found = _cpuinfo()
    numbers = ", ".join(f"{k} {found[k]}" for k in ("cpu family", "model") if k in found)
    return f"{found.get('model name', platform.machine())} ({numbers})"


def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first core."""
    found: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found


def _commit() -> str:
    root = repository()
    if root is None:
        return "none, it is installed"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
