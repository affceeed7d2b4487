"""The CUDA kernels of the native backend on CPU tensors: their host code runs as it is, and every launch executes the
PTX of sm_80 in ptxemu, with every access checked.

nvcc compiles each source once into ``build/ptx``.
"""

import functools
import hashlib
import importlib
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import compiled_triton
import torch
from compiled_triton import Launch, ptxemu
from global_memory import watching

from fastpixcon.ops import define, extension

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
FLAGS = ("-O3", "-std=c++20", "--expt-relaxed-constexpr", "-lineinfo", "-arch=sm_80", f"-I{ROOT / 'csrc'}")
LARGE, SMALL = 166912, 101376  # bytes of shared memory a block of sm_80, of sm_86, 89 and 120


@functools.cache
def nvcc() -> str | None:
    ptxemu()
    return importlib.import_module("ptxemu.launch").find_nvcc()


@functools.cache
def missing() -> str | None:
    """Why the kernels can't run here; None if they can."""
    if "CUDA" not in extension.build.get("devices", "").split(","):
        return extension.reason or "fastpixcon._C was built without CUDA kernels"
    if compiled_triton.no_ptxemu() is not None:
        return compiled_triton.no_ptxemu()
    return None if nvcc() is not None else "no nvcc"


def compile_source(source: Path, edit: Callable[[str], str] | None = None) -> str:
    """PTX of a source, perhaps changed, from the cache or nvcc."""
    text = source.read_text() if edit is None else edit(source.read_text())
    headers = sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cuh"))
    everything = "\0".join([text, *FLAGS, *(p.read_text() for p in headers)])
    name = f"{source.stem}-{hashlib.sha256(everything.encode()).hexdigest()[:16]}"
    ptx = ROOT / "build" / "ptx" / f"{name}.ptx"
    if not ptx.exists():
        ptx.parent.mkdir(parents=True, exist_ok=True)
        mine = ptx.with_suffix(f".{os.getpid()}.cu")  # another process may do the same
        mine.write_text(text)
        subprocess.run([nvcc(), "-ptx", *FLAGS, str(mine), "-o", str(mine.with_suffix(".ptx"))], check=True)
        mine.with_suffix(".ptx").rename(ptx)
        mine.unlink()
    return ptx.read_text()


@functools.cache
def entries() -> dict[str, Path]:
    """Which source a kernel is in."""
    ptxemu()
    from_ptx = importlib.import_module("ptxemu.parser").parse_ptx
    return {entry: source for source in SOURCES for entry in from_ptx(compile_source(source)).entries()}


@dataclass
class Emulator:
    """What stands in for the GPU, and what it launched. ``edit`` changes sources before they are compiled."""

    shared: int = LARGE
    multiprocessors: int = 8
    edit: Callable[[str], str] | None = None
    options: dict[str, Any] = field(default_factory=dict)  # of ptxemu
    launches: list[Launch] = field(default_factory=list)

    def __call__(
        self, name: str, grid: tuple[int, ...], block: tuple[int, ...], shared: int, arguments: Sequence[Any]
    ) -> None:
        ptx = compile_source(entries()[name], self.edit)
        assert shared <= self.shared, f"{name}: {shared} bytes of shared memory"
        with watching() as watchers:
            result = ptxemu().launch_cuda(
                ptx, name, grid, block, arguments, dynamic_smem=shared, profile=True, **self.options
            )
        assert not result.warnings, result.warnings
        traffic = watchers[0].traffic if watchers else {}
        self.launches.append(Launch(name, grid, {"block": block}, ptx, result.profile, traffic))


@contextmanager
def launching(emulator: Emulator) -> Iterator[Emulator]:
    """CPU tensors go to the CUDA kernels of the native backend instead of its CPU kernels."""
    from fastpixcon import _C

    library = torch.library.Library("fastpixcon_native", "IMPL")
    key = torch._C.DispatchKey.CUDA
    for operator in define.OPERATORS:
        call = define.OVERLOADS["native", operator]._op_dk
        library.impl(operator, functools.partial(call, key), "CPU", allow_override=True)
    _C.set_emulator(emulator, emulator.shared, emulator.multiprocessors)
    try:
        yield emulator
    finally:
        _C.set_emulator(None)
        library._destroy()
