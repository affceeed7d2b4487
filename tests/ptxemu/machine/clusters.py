"""Clusters of programs: which programs they are, and their barrier."""

import math
from typing import TYPE_CHECKING

import numpy as np

from ..errors import EmuError
from ..program import Function

if TYPE_CHECKING:
    from .machine import Machine

Dim3 = tuple[int, int, int]
LARGEST = 16  # programs; 8 are portable


def cluster_of(function: Function, wanted: Dim3 | None, grid: Dim3) -> Dim3:
    """Its sizes, in programs: as launched, or as compiled."""
    compiled = function.directives.get("reqnctapercluster")
    sizes = None
    if compiled:
        x, y, z = [*compiled, 1, 1, 1][:3]
        sizes = (x, y, z)
        if wanted is not None and wanted != sizes:
            raise EmuError(f"{function.name} was compiled for clusters of {sizes}, launched with {wanted}")
    sizes = sizes or wanted or (1, 1, 1)
    if math.prod(sizes) > LARGEST or any(n % size for n, size in zip(grid, sizes, strict=True)):
        raise EmuError(f"{function.name}: clusters of {sizes} in a grid of {grid}")
    return sizes


def coordinates(number: np.ndarray | int, sizes: Dim3) -> tuple:
    x, y, _ = sizes
    return number % x, number // x % y, number // (x * y)


def block_index(machine: "Machine", program: np.ndarray | int) -> tuple:
    """%ctaid of programs of the launch, which are numbered cluster by cluster."""
    (nx, ny, nz), (sx, sy, sz) = machine.grid, machine.cluster
    clusters: Dim3 = nx // sx, ny // sy, nz // sz
    of_cluster = coordinates(program // machine.cluster_size, clusters)
    within = coordinates(program % machine.cluster_size, machine.cluster)
    return tuple(a * size + b for a, size, b in zip(of_cluster, machine.cluster, within, strict=True))
