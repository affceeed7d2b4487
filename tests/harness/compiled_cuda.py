"""The CUDA kernels of the native backend on CPU tensors: their host code runs as it is, and every launch executes the
PTX that the extension was built with in the emulator in ``ptxemu/``, with every access checked.

With ``FASTPIXCON_TEST_PTX_LINES=1`` nvcc compiles the sources once more, into ``build/ptx``, and what is found
has the line of its source; so it does with ``FASTPIXCON_TEST_PTX_ARCH=90``, for sm_90a. Kernels that sm_90a alone has
are run as that beside the others for sm_80: where a test asks for them, or with ``FASTPIXCON_HOPPER=1`` everywhere.
"""

import functools
import hashlib
import importlib.util
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ptxemu
import torch

from fastpixcon.ops import define, extension
from harness.compiled_triton import ARCHITECTURE, Launch

COMPILING = os.environ.get("FASTPIXCON_TEST_PTX_LINES") == "1" or ARCHITECTURE != 80
ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
FLAGS = (
    "-O3", "-std=c++20", "--expt-relaxed-constexpr", "-lineinfo", f"-I{ROOT / 'csrc'}",
    f"-arch=sm_{ARCHITECTURE}{'a' if ARCHITECTURE == 90 else ''}",
    f'-DFASTPIXCON_CUDA_ARCHITECTURES="{ARCHITECTURE / 10}"',
)  # fmt: skip
OF_SM90 = "_sm90.cu"  # how sources end that are for it alone
FLAGS_OF_SM90 = (*(flag for flag in FLAGS if not flag.startswith("-arch")), "-arch=sm_90a", "-DFASTPIXCON_SM90A")
ENTRY = re.compile(r"^(?:\.weak |\.visible )?\.entry (\w+)", re.MULTILINE)
FUNCTION = re.compile(r"(?=^(?:\.weak |\.visible )?\.(?:entry|func) )", re.MULTILINE)
SM90 = os.environ.get("FASTPIXCON_HOPPER") == "1"
# Bytes of shared memory a block of sm_90, of sm_80 or what the tests are for, of sm_86, 89 and 120
HOPPER = 232448
LARGE, SMALL = 166912 if ARCHITECTURE == 80 and not SM90 else HOPPER, 101376


@functools.cache
def missing() -> str | None:
    """Why the kernels can't run here; None if they can."""
    if "CUDA" not in extension.build.get("devices", "").split(","):
        return extension.reason or "fastpixcon._C was built without CUDA kernels"
    if COMPILING:
        return None if ptxemu.find_nvcc() is not None else "there is no nvcc"
    if cuobjdump() is None:
        return "cuobjdump comes with Triton, which is not installed"
    return None if built() else "fastpixcon._C was built without PTX (FASTPIXCON_BUILD_TESTS=1)"


def cuobjdump() -> Path | None:
    triton = importlib.util.find_spec("triton")
    return triton and Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@functools.cache
def built() -> tuple[str, ...]:
    """PTX of every source, from the extension."""
    library = importlib.util.find_spec("fastpixcon._C").origin
    listing = subprocess.run([cuobjdump(), "-ptx", library], capture_output=True, text=True, check=True).stdout
    return tuple(part for part in listing.split("\nFatbin ")[1:] if part.startswith("ptx code:") and ".entry" in part)


def compiled(source: Path) -> str:
    """PTX of a source with the numbers of its lines, from the cache or nvcc."""
    text, flags = source.read_text(), FLAGS_OF_SM90 if source.name.endswith(OF_SM90) else FLAGS
    headers = sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cuh"))
    everything = "\0".join([text, *flags, *(p.read_text() for p in headers)])
    name = f"{source.stem}-{hashlib.sha256(everything.encode()).hexdigest()[:16]}"
    ptx = ROOT / "build" / "ptx" / f"{name}.ptx"
    if not ptx.exists():
        ptx.parent.mkdir(parents=True, exist_ok=True)
        mine = ptx.with_suffix(f".{os.getpid()}.cu")  # another process may do the same
        mine.write_text(text)
        subprocess.run([ptxemu.find_nvcc(), "-ptx", *flags, str(mine), "-o", str(mine.with_suffix(".ptx"))], check=True)
        mine.with_suffix(".ptx").rename(ptx)
        mine.unlink()
    return ptx.read_text()


@functools.cache
def entries() -> dict[str, str]:
    """PTX of each kernel and of all functions of its source, without the other kernels, which would take long to
    parse."""
    found = {}
    for ptx in map(compiled, SOURCES) if COMPILING else built():
        begin = ptx.index(".version")
        head, *parts = FUNCTION.split(ptx[begin:])
        # What follows the last function is debugging information, which nothing needs.
        bodies = [part[: part.find("\n}\n") + 3] for part in parts]
        kernels = {name[1]: body for body in bodies if (name := ENTRY.match(body))}
        functions = "".join(body for body in bodies if not ENTRY.match(body))
        found |= {name: head + functions + body for name, body in kernels.items()}
    return found


@dataclass
class Emulator:
    """What stands in for the GPU, and what it launched."""

    shared: int = LARGE
    multiprocessors: int = 8
    sm90: bool = SM90  # has kernels of sm_90a, and they are asked for
    edit: Callable[[str, str], str] | None = None  # of a kernel, by its name, and its PTX
    run: Callable[..., None] | None = None  # instead of executing anything
    options: dict[str, Any] = field(default_factory=dict)  # of ptxemu
    launches: list[Launch] = field(default_factory=list)

    def __call__(
        self, name: str, grid: tuple[int, ...], block: tuple[int, ...], shared: int, arguments: Sequence[Any]
    ) -> None:
        if self.run is not None:
            return self.run(name, grid, block, shared, arguments)
        ptx = entries()[name]
        if self.edit is not None:
            ptx = self.edit(name, ptx)
        if self.sm90:  # which runs what is for sm_80, with its own shared memory
            ptx = ptx.replace(".target sm_80", ".target sm_90", 1)
        assert shared <= self.shared, f"{name}: {shared} bytes of shared memory"
        arguments = [ptxemu.Struct(*x) if isinstance(x, tuple) else x for x in arguments]
        result = ptxemu.launch_cuda(
            ptx, name, grid, block, arguments, dynamic_smem=shared, profile=True, **self.options
        )
        assert not result.warnings, result.warnings
        self.launches.append(Launch(name, grid, {"block": block}, ptx, result.profile, result.traffic))


@contextmanager
def launching(launch: Callable[..., None]) -> Iterator[None]:
    """CPU tensors go to the CUDA kernels of the native backend instead of its CPU kernels, and every launch to
    ``launch(name, grid, block, shared, arguments)``, perhaps with the limits of a device."""
    from fastpixcon import _C

    library = torch.library.Library("fastpixcon_native", "IMPL")
    key = torch._C.DispatchKey.CUDA
    for operator in define.OPERATORS:
        if "cuda" in define.NATIVE_DEVICES.get(operator, ()):
            call = define.OVERLOADS["native", operator]._op_dk
            library.impl(operator, functools.partial(call, key), "CPU", allow_override=True)
    limits = (getattr(launch, name, default) for name, default in (("shared", LARGE), ("multiprocessors", 8)))
    _C.set_emulator(launch, *limits, getattr(launch, "sm90", SM90))
    try:
        yield
    finally:
        _C.set_emulator(None)
        library._destroy()
