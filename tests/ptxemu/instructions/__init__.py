"""Builders of instructions, a family a file. Importing them registers them."""

from . import (
    atomics,
    bits,
    compare,
    convert,
    copies,
    fences,
    floating,
    integer,
    ldmatrix,
    load_store,
    mma,
    move,
    warp,
    wmma,
)

__all__ = [
    "atomics",
    "bits",
    "compare",
    "convert",
    "copies",
    "fences",
    "floating",
    "integer",
    "ldmatrix",
    "load_store",
    "mma",
    "move",
    "warp",
    "wmma",
]
