"""The only file that defines and registers operators.

A backend is a ``torch.library`` namespace; an operator is one schema, defined in each of them. The
contract of an operator (``ops/<operator>.py``) calls :func:`define` once; the implementations are found
by name: the Python backends in ``<package>/<operator>.py``, the native one in ``csrc``.
"""

import importlib
import importlib.util
from collections.abc import Callable
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
PYTHON_PACKAGES = {"reference": "fastpixcon.reference", "triton": "fastpixcon.kernels"}

OPERATORS: dict[str, str] = {}  # name -> schema, as defined so far
OVERLOADS: dict[tuple[str, str], OpOverload] = {}  # (backend, name) -> what to call
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
        torch.library.define(qualified, schema, tags=torch.Tag.pt2_compliant_tag)
        torch.library.register_fake(qualified, fake)
        if autograd is not None:
            _register_autograd(qualified, namespace, autograd)
        if backend in PYTHON_PACKAGES:
            implementation = _python_implementation(PYTHON_PACKAGES[backend], name)
            if implementation is None:
                continue
            torch.library.impl(qualified, "default", _without_autocast(implementation))
            IMPLEMENTATIONS[backend, name] = f"{PYTHON_PACKAGES[backend]}.{name.removesuffix('_backward')}:{name}"
        elif not extension.has_kernel(qualified):
            continue
        OVERLOADS[backend, name] = getattr(getattr(torch.ops, namespace), name).default


def _register_autograd(qualified: str, namespace: str, autograd: Autograd) -> None:
    def backward(ctx: Any, *d_outputs: Any) -> Any:
        return autograd.backward(getattr(torch.ops, namespace), ctx, *d_outputs)

    torch.library.register_autograd(qualified, backward, setup_context=autograd.save)


def _without_autocast(implementation: Callable[..., Any]) -> Callable[..., Any]:
    """Inside an operator nothing is cast: it says itself what it computes in."""

    def run(tensor: torch.Tensor, *arguments: Any) -> Any:
        with torch.autocast(tensor.device.type, enabled=False):
            return implementation(tensor, *arguments)

    return run


def _python_implementation(package: str, name: str) -> Callable[..., Any] | None:
    """The function ``name`` of ``package/<operator>.py``, imported when it is first called, for Triton is slow to
    import; a backward lives beside its forward. None where there is no such file, or no Triton."""
    module = f"{package}.{name.removesuffix('_backward')}"
    if package.endswith("kernels") and importlib.util.find_spec("triton") is None:
        return None
    if importlib.util.find_spec(module) is None:
        return None

    def run(*arguments: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*arguments)

    return run
