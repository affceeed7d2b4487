"""The only file that defines and registers operators.

A backend is a ``torch.library`` namespace; an operator is one schema, defined in each of them. The
contract of an operator (``ops/<operator>.py``) calls :func:`define` once; the implementations are found
by name: the Python backends in ``<package>/<operator>.py``, the native one in ``csrc``.
"""

import contextlib
import importlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload

from fastpixcon.ops import extension

NAMESPACES = {
    "reference": "fastpixcon_reference",
    "native": "fastpixcon_native",
    "triton": "fastpixcon_triton",
}
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"  # Triton kernels run on CPU tensors, line by line
PYTHON_PACKAGES = {"reference": "fastpixcon.reference", "triton": "fastpixcon.kernels"}

OPERATORS: dict[str, str] = {}  # name -> schema, as defined so far
OVERLOADS: dict[tuple[str, str], OpOverload] = {}  # (backend, name) -> what to call
NATIVE_DEVICES: dict[str, frozenset[str]] = {}  # name -> types of devices that the native backend runs it on
IMPLEMENTATIONS: dict[tuple[str, str], str] = {}  # the Python launchers among them, module:function


@dataclass(frozen=True)
class Autograd:
    """``save(ctx, inputs, output)`` and ``backward(ops, ctx, *d_outputs)``; ``ops`` is the namespace
    that ran the forward, so a backward always runs on the same backend."""

    save: Callable[..., None]
    backward: Callable[..., Any]


def define(name: str, schema: str, fake: Callable[..., Any], autograd: Autograd | None = None) -> None:
    """Defines ``name`` with ``schema`` in every backend's namespace, with its fake kernel, its autograd
    formula and the implementations that exist."""
    OPERATORS[name] = schema
    for backend, namespace in NAMESPACES.items():
        qualified = f"{namespace}::{name}"
        package = PYTHON_PACKAGES.get(backend)
        implementation = _python_implementation(package, name) if package else None
        if backend == "triton" and implementation is not None and not INTERPRETING:
            # torch.compile looks into it: the graph has its kernels and PyTorch's operators instead of it
            with _no_search_for_kernels():
                torch.library.triton_op(qualified, implementation, mutates_args=mutated(schema), schema=schema)
        else:
            torch.library.define(qualified, schema, tags=torch.Tag.pt2_compliant_tag)
            if implementation is not None:
                torch.library.impl(qualified, "default", implementation)
        torch.library.register_fake(qualified, fake)
        if autograd is not None:
            _register_autograd(qualified, namespace, autograd)
        if implementation is not None:
            IMPLEMENTATIONS[backend, name] = f"{package}.{name.removesuffix('_backward')}:{name}"
        else:
            devices = extension.devices_of(qualified)
            if not devices:
                continue
            NATIVE_DEVICES[name] = devices
        OVERLOADS[backend, name] = getattr(getattr(torch.ops, namespace), name).default


def mutated(schema: str) -> list[str]:
    """The arguments that a schema marks as changed in place, ``Tensor(a!) name``."""
    return re.findall(r"Tensor\(\w!\) (\w+)", schema)


@contextlib.contextmanager
def _no_search_for_kernels() -> Iterator[None]:
    """``triton_op`` looks for kernels in the source of a function, and imports Triton, Inductor and Dynamo to do so,
    for seconds. It finds none in a function that imports them when it is first called."""
    module: Any = torch._library.triton
    search = getattr(module, "get_inner_triton_kernels", None)  # not in every version of torch
    if search is not None:
        module.get_inner_triton_kernels = lambda fn: []
    try:
        yield
    finally:
        if search is not None:
            module.get_inner_triton_kernels = search


def _register_autograd(qualified: str, namespace: str, autograd: Autograd) -> None:
    def backward(ctx: Any, *d_outputs: Any) -> Any:
        return autograd.backward(getattr(torch.ops, namespace), ctx, *d_outputs)

    torch.library.register_autograd(qualified, backward, setup_context=autograd.save)


def _python_implementation(package: str, name: str) -> Callable[..., Any] | None:
    """The function ``name`` of ``package/<operator>.py``, imported when it is first called, for Triton is slow to
    import; a backward lives beside its forward. None where there is no such file, or no Triton."""
    module = f"{package}.{name.removesuffix('_backward')}"
    if package.endswith("kernels") and importlib.util.find_spec("triton") is None:
        return None
    if importlib.util.find_spec(module) is None:
        return None

    def run(tensor: torch.Tensor, *arguments: Any) -> Any:
        function = getattr(importlib.import_module(module), name)
        with torch.autocast(tensor.device.type, enabled=False):  # an operator says itself what it computes in
            return function(tensor, *arguments)

    return run
