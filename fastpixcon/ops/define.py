"""The only file that defines and registers operators.

A backend is a ``torch.library`` namespace; an operator is one schema, defined in each of them. The
contract of an operator (``ops/<operator>.py``) calls :func:`define` once; the implementations are found
by name: the Python backends in ``<package>/<operator>.py``, the native one in ``csrc``.
"""

import functools
import importlib
import importlib.util
import os
import re
from collections.abc import Callable
from typing import Any

import torch
from torch._library.triton import set_wrap_triton_enabled
from torch._ops import OpOverload
from torch._subclasses.functional_tensor import FunctionalTensorMode

from fastpixcon.ops import extension
from fastpixcon.ops.derivatives import PLAIN, Autograd, in_place, ways_of
from fastpixcon.ops.signature import Signature, signature

__all__ = ["Autograd", "define"]

NAMESPACES = {
    "reference": "fastpixcon_reference",
    "native": "fastpixcon_native",
    "triton": "fastpixcon_triton",
}
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"  # Triton kernels run on CPU tensors, line by line
PYTHON_PACKAGES = {"reference": "fastpixcon.reference", "triton": "fastpixcon.kernels"}

OPERATORS: dict[str, Signature] = {}  # as defined so far
WIDTHS: dict[str, tuple[int, ...]] = {}  # of their signatures, for what Dynamo traces
OVERLOADS: dict[tuple[str, str], OpOverload] = {}  # (backend, name) -> what to call
NATIVE_DEVICES: dict[str, frozenset[str]] = {}  # name -> types of devices that the native backend runs it on
IMPLEMENTATIONS: dict[tuple[str, str], str] = {}  # the Python launchers among them, module:function


def define(name: str, fake: Callable[..., Any], returns: str, autograd: Autograd | None = None) -> None:
    """Defines ``name`` in every backend's namespace, with the arguments of its fake kernel, which implementations get
    by name, the names of the tensors that it returns, its autograd formula and the implementations that exist."""
    OPERATORS[name] = of = signature(fake, returns.split())
    WIDTHS[name] = of.widths
    schema = of.schema

    def fake_of_leaves(*leaves: Any) -> Any:
        return fake(**of.values(leaves))

    for backend, namespace in NAMESPACES.items():
        qualified = f"{namespace}::{name}"
        package = PYTHON_PACKAGES.get(backend)
        implementation = _python_implementation(package, name, of) if package else None
        if backend == "triton" and implementation is not None and not INTERPRETING:
            _triton_op(qualified, implementation, schema)
        else:
            torch.library.define(qualified, schema, tags=torch.Tag.pt2_compliant_tag)
            if implementation is not None:
                torch.library.impl(qualified, "default", implementation)
        torch.library.register_fake(qualified, fake_of_leaves)
        overload = getattr(getattr(torch.ops, namespace), name).default
        if not mutated(schema):  # what is written in place has no derivative, and no output
            ways = ways_of(overload, name, backend, autograd, implementation and directly(implementation))
            library(namespace).impl(name, ways.kernel, "Autograd", with_keyset=True)
            PLAIN[backend, name] = ways.plain
        elif implementation is not None:
            written = [n for n, x in enumerate(of.leaves) if "!" in x.type]
            PLAIN[backend, name] = in_place(overload, directly(implementation), written)
        if implementation is not None:
            IMPLEMENTATIONS[backend, name] = f"{package}.{name.removesuffix('_backward')}:{name}"
        else:
            devices = extension.devices_of(qualified)
            if not devices:
                continue
            NATIVE_DEVICES[name] = devices
        OVERLOADS[backend, name] = overload


@functools.cache
def library(namespace: str) -> torch.library.Library:
    return torch.library.Library(namespace, "FRAGMENT")


def define_host(
    name: str, schema: str, implementation: Callable[..., Any], fake: Callable[..., Any], *tags: torch.Tag
) -> OpOverload:
    """Defines ``fastpixcon::name``, which asks the host something whenever a compiled graph runs: the same on every
    device, without gradient, no backend's."""
    qualified = f"fastpixcon::{name}"
    torch.library.define(qualified, schema, tags=(torch.Tag.pt2_compliant_tag, *tags))
    torch.library.impl(qualified, "default", implementation)
    torch.library.register_fake(qualified, fake)
    overload: OpOverload = getattr(torch.ops.fastpixcon, name).default
    return overload


def mutated(schema: str) -> list[str]:
    """The arguments that a schema marks as changed in place, ``Tensor(a!) name``."""
    return re.findall(r"Tensor\(\w!\) (\w+)", schema)


def directly(implementation: Callable[..., Any]) -> Callable[..., Any]:
    """An implementation in Python whose kernels are launched, not recorded."""

    def run(*arguments: Any) -> Any:
        with set_wrap_triton_enabled(False):
            return implementation(*arguments)

    return run


def _triton_op(qualified: str, implementation: Callable[..., Any], schema: str) -> None:
    """What ``torch.library.triton_op`` does: torch.compile looks into the operator, so that the graph has its kernels
    and PyTorch's operators instead of it.

    That of torch 2.12 takes a schema and does not use it; that of 2.14 searches sources for kernels, for which it
    imports Triton, Inductor and Dynamo, for seconds.
    """

    eager = directly(implementation)

    def decomposed(mode: Any, operator: Any, types: Any, arguments: Any, keywords: Any) -> Any:
        from torch.export._trace import custom_triton_ops_decomposition_disabled

        if custom_triton_ops_decomposition_disabled():  # an exported program keeps the operator
            return mode.__torch_dispatch__(operator, types, arguments, keywords)
        with mode:
            return implementation(*arguments, **keywords)

    if mutated(schema):
        made = torch.library.custom_op(qualified, eager, mutates_args=mutated(schema), schema=schema)
        made.register_torch_dispatch(FunctionalTensorMode, decomposed)
    else:  # with an autograd kernel of our own, which a custom_op has already
        torch.library.define(qualified, schema, tags=torch.Tag.pt2_compliant_tag)
        torch.library.impl(qualified, "default", eager)
        torch.library.register_torch_dispatch(qualified, FunctionalTensorMode, decomposed)


def _python_implementation(package: str, name: str, of: Signature) -> Callable[..., Any] | None:
    """The function ``name`` of ``package/<operator>.py``, imported when it is first called, for Triton is slow to
    import; a backward lives beside its forward. None where there is no such file, or no Triton."""
    module = f"{package}.{name.removesuffix('_backward')}"
    if package.endswith("kernels") and importlib.util.find_spec("triton") is None:
        return None
    if importlib.util.find_spec(module) is None:
        return None

    where: list[Any] = []  # the module, looked up by its name once

    def run(*leaves: Any) -> Any:
        if not where:
            where.append(importlib.import_module(module))
        function, device = getattr(where[0], name), leaves[0].device.type
        if not torch.is_autocast_enabled(device):
            return function(**of.values(leaves))
        with torch.autocast(device, enabled=False):  # an operator says itself what it computes in
            return function(**of.values(leaves))

    return run
