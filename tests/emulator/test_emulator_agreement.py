"""The same results and counts as of the emulator from which this one was taken, where that is beside the repository."""

import functools
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import ptxemu
import pytest

HERE = Path(__file__).parent


@functools.cache
def folder() -> Path | None:
    """Of the package that PTXEMU names, or in ../shared."""
    named = os.environ.get("PTXEMU")
    places = [Path(named), Path(named).parent] if named else [HERE.parents[2] / "shared"]
    return next((place for place in places if (place / "ptxemu" / "__init__.py").is_file()), None)


@pytest.fixture(scope="module")
def other() -> ModuleType:
    """Imported under its own name, which this one's modules have meanwhile given up."""
    place = folder()
    if place is None:
        pytest.skip("no other emulator (PTXEMU names its folder)")
    ours = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "ptxemu"}
    sys.path.insert(0, str(place))
    try:
        return importlib.import_module("ptxemu")
    finally:
        sys.path.remove(str(place))
        for name in [name for name in sys.modules if name.split(".")[0] == "ptxemu"]:
            del sys.modules[name]
        sys.modules.update(ours)


def cases() -> dict[str, tuple[str, str, int, int, list[Any]]]:
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal((64, 104)).astype(np.float16) for _ in range(2))
    keys = rng.integers(0, 2**32, (3, 512), dtype=np.uint32)
    x = rng.integers(-100, 100, (4, 256), dtype=np.int32)
    f = rng.standard_normal(64).astype(np.float32)
    return {
        "pipelined": ("kernels.cu", "pipelined", 1, 128, [a, b, np.zeros((64, 64), np.float32), 104]),
        "sort": ("cub.cu", "sort_pairs", 3, 128, [keys, np.zeros_like(keys), np.zeros_like(keys)]),
        "scan": ("cub.cu", "scan", 4, 256, [x, np.zeros_like(x), np.zeros_like(x), np.zeros(4, np.int32)]),
        "mathematics": ("kernels.cu", "mathematics", 1, 64, [f, np.zeros((14, 64), np.float32), 64]),
        "divergent": ("kernels.cu", "divergent", 3, 64, [np.arange(1, 193, dtype=np.int32), np.zeros(192, np.int32)]),
    }


@pytest.mark.parametrize("name", cases())
def test_same_results_and_counts(name: str, other: ModuleType) -> None:
    if ptxemu.find_nvcc() is None:
        pytest.skip("no nvcc")
    outcomes = []
    for module in (ptxemu, other):
        file, kernel, grid, block, arguments = cases()[name]
        ptx, _ = ptxemu.compile_cuda(HERE / file)
        outcomes.append((module.launch_cuda(ptx, kernel, grid, block, arguments, profile=True).profile, arguments))
    (ours, our_arrays), (theirs, their_arrays) = outcomes
    tolerance = 1e-6 * 104 if name == "pipelined" else 0  # tensor cores cut off here
    for mine, wanted in zip(our_arrays, their_arrays, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=0, atol=tolerance)
    assert dict(ours.by_class) == theirs.by_class
    assert dict(ours.by_opcode) == theirs.by_opcode
    assert ours.flops == theirs.flops
    assert [tuple(use) for use in ours.memory] == theirs.memory
    assert ours.bank_conflict_degree() == theirs.bank_conflict_degree()
    assert ours.sectors_per_request() == theirs.sectors_per_request()
