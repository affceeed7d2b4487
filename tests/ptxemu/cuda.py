"""Kernels of CUDA C++, compiled by nvcc."""

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import EmuError
from .launch import Result, Sizes, launch
from .parser import parse_ptx


def find_nvcc() -> str | None:
    """NVCC, then PATH, then CUDA_HOME and CUDA_PATH, then the toolkit that torch finds."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates = [os.environ.get("NVCC"), shutil.which("nvcc"), *(os.path.join(x, "bin", "nvcc") for x in homes if x)]
    found = next((x for x in candidates if x and os.path.exists(x)), None)
    return found or nvcc_of_torch()


@functools.cache
def nvcc_of_torch() -> str | None:
    try:
        from torch.utils.cpp_extension import CUDA_HOME
    except ImportError:
        return None
    nvcc = os.path.join(CUDA_HOME or "", "bin", "nvcc")
    return nvcc if os.path.exists(nvcc) else None


def compile_cuda(
    source: str | Path,
    arch: str = "sm_80",
    include: Sequence[str | Path] = (),
    flags: Sequence[str] = (),
    std: str = "c++17",
) -> tuple[str, list[str]]:
    """A .cu file or CUDA source text to (PTX, names of its kernels)."""
    is_text = isinstance(source, str) and "\n" in source
    text = source if is_text else Path(source).read_text()
    folder = "" if is_text else str(Path(source).resolve().parent)
    ptx = run_nvcc(text, arch, (*map(str, include), folder), tuple(flags), std)
    return ptx, parse_ptx(ptx).entries()


@functools.cache
def run_nvcc(text: str, arch: str, include: tuple[str, ...], flags: tuple[str, ...], std: str) -> str:
    nvcc = find_nvcc()
    if nvcc is None:
        raise EmuError("nvcc not found (NVCC or CUDA_HOME names it)")
    with tempfile.TemporaryDirectory() as folder:
        source, ptx = Path(folder, "kernel.cu"), Path(folder, "kernel.ptx")
        source.write_text(text)
        includes = [f"-I{x}" for x in include if x]
        command = [nvcc, "-ptx", f"-arch={arch}", f"-std={std}", *includes, *flags, str(source), "-o", str(ptx)]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise EmuError(f"nvcc failed:\n{run.stderr}{run.stdout}")
        return ptx.read_text()


def launch_cuda(
    ptx: str, entry: str, grid: Sizes, block: Sizes, args: Sequence[Any], dynamic_smem: int = 0, **settings: Any
) -> Result:
    """``entry`` is the mangled name or a unique part of it."""
    return launch(ptx, entry, grid, block, args, dynamic_smem, **settings)
