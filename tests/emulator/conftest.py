"""Kernels in CUDA C++ beside the tests, compiled once."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ptxemu
import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def cuda() -> Callable[..., ptxemu.Result]:
    """Runs a kernel of a file, or of a text: cuda("file.cu", kernel, grid, block, args)."""
    if ptxemu.find_nvcc() is None:
        pytest.skip("no nvcc (NVCC or CUDA_HOME names it)")

    def run(
        file: str, kernel: str, *args: Any, arch: str = "sm_80", edit: Callable[[str], str] = str, **settings: Any
    ) -> ptxemu.Result:
        ptx, _ = ptxemu.compile_cuda(file if "\n" in file else HERE / file, arch, [HERE])
        return ptxemu.launch_cuda(edit(ptx), kernel, *args, **settings)

    return run


@pytest.fixture
def hopper(cuda: Callable[..., ptxemu.Result]) -> Callable[..., ptxemu.Result]:
    """The same, compiled for sm_90a."""
    return functools.partial(cuda, arch="sm_90a")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
