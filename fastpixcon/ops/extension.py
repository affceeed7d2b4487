"""Loads the C++ extension ``fastpixcon._C``, or says why it can't."""

import importlib
import warnings

import torch

reason: str | None = None  # why the extension is not here; None if it is
build: dict[str, str] = {}  # what csrc/module.cpp says about itself

try:
    build = dict(importlib.import_module("fastpixcon._C").build())
except ModuleNotFoundError as error:
    if error.name != "fastpixcon._C":
        raise
    reason = (
        "fastpixcon._C was not built (no C++ compiler at install time?); "
        "reinstall with FASTPIXCON_BUILD=cpu to see the compiler's message"
    )
except ImportError as error:  # built against another torch, or a missing shared library
    reason = f"fastpixcon._C does not load: {error}"

if reason is not None:
    warnings.warn(f"fastpixcon runs on its slow reference: {reason}", RuntimeWarning, stacklevel=2)


def facts() -> list[str]:
    """``build`` in words; of the CPU's instruction set also what else is there and why it was not taken."""
    shown = dict(build)
    if (why := shown.pop("isa choice", None)) is not None:
        shown["cpu_isa"] = f"{shown.pop('isa')} ({why})"
    return [f"{key} {value}" for key, value in shown.items()]


def devices_of(qualified: str) -> frozenset[str]:
    """The types of devices that C++ registered a kernel for, of the operator ``namespace::name``."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    keys = ("CPU", "CUDA") if reason is None else ()
    return frozenset(key.lower() for key in keys if has(qualified, key))
