"""First derivatives in reverse mode; what there is not, raises.

``torch.library.register_autograd`` drops the tangents of forward mode, and a backward operator without a formula of its
own is a constant to whoever differentiates it again: zeros, without a word. So every operator has an autograd kernel
from here. It works under ``torch.func``, too, which wants another kind of node.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch._C import _after_autograd_keyset, _any_requires_grad, _are_functorch_transforms_active
from torch._functorch.utils import enable_single_level_autograd_function
from torch._ops import OpOverload
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction
from torch.autograd.graph import increment_version

from fastpixcon.ops.plain import is_plain, wants_node

__all__ = [
    "PLAIN",
    "Autograd",
    "first_only",
    "in_place",
    "no_forward_mode",
    "no_transforms",
    "ways_of",
]

PLAIN: dict[tuple[str, str], Callable[..., Any]] = {}  # (backend, name) -> what a plain call does


@dataclass(frozen=True)
class Autograd:
    """``save(ctx, inputs, output)`` and ``backward(ops, ctx, *d_outputs)``; ``ops`` are the operators of the backend
    that ran the forward, on which a backward always runs."""

    save: Callable[..., None]
    backward: Callable[..., Any]


class OperatorsOf:
    """Of a backend, by their names."""

    def __init__(self, backend: str, namespace: str) -> None:
        self.backend, self.namespace = backend, namespace

    def __getattr__(self, name: str) -> Callable[..., Any]:
        overload = getattr(getattr(torch.ops, self.namespace), name).default
        plain = PLAIN.get((self.backend, name))

        def call(*arguments: Any) -> Any:
            return plain(*arguments) if plain is not None and is_plain(arguments) else overload(*arguments)

        self.__dict__[name] = call
        return call


def no_forward_mode(what: str) -> NoReturn:
    raise NotImplementedError(
        f"{what}: forward mode (torch.func.jvp, jacfwd, linearize, torch.autograd.forward_ad) is not supported, its"
        " derivative would be zero; reverse mode is (backward, torch.func.grad, vjp, jacrev)"
    )


def no_second_derivative(what: str) -> NoReturn:
    raise NotImplementedError(
        f"{what}: second derivatives (a backward through create_graph=True, torch.func.hessian, gradient penalties) are"
        " not supported, they would be zero; first derivatives are"
    )


def no_derivative(what: str) -> NoReturn:
    raise NotImplementedError(
        f"{what}: it has no derivative of its own; fastpixcon.functional.info_nce and gather_normalize have"
    )


def no_transforms(what: str) -> None:
    """Raises under ``torch.func``."""
    if _are_functorch_transforms_active():
        raise NotImplementedError(f"{what}: torch.func (grad, vjp, vmap, jvp) is not supported; backward is")


class Ways(NamedTuple):
    """Of calling an operator."""

    kernel: Callable[..., Any]  # (keys, *arguments): what the dispatcher calls for inputs that may want a derivative
    plain: Callable[..., Any]  # (*arguments): what a plain call does, see ``plain.py``


def ways_of(
    operator: OpOverload, name: str, backend: str, autograd: Autograd | None, implementation: Callable[..., Any] | None
) -> Ways:
    """Those of an operator, which may have an implementation that the dispatcher need not be asked for."""
    ops = OperatorsOf(backend, operator.namespace)
    what = f"{name.removesuffix('_backward')} on backend {backend!r}"

    def run(keys: Any, arguments: tuple[Any, ...]) -> Any:
        if keys is None and implementation is not None:
            return implementation(*arguments)
        with torch._C._AutoDispatchBelowAutograd():
            if keys is None:
                return operator(*arguments)
            return operator.redispatch(keys & _after_autograd_keyset, *arguments)

    class Node(_SingleLevelFunction):  # one level of torch.func, of which the dispatcher calls us once each
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            *inputs, keys = arguments  # last, so that ctx.needs_input_grad begins with the inputs
            if keys is None:
                output = run(None, tuple(inputs))
            else:
                with _levels_below():
                    output = run(keys, tuple(inputs))
            if autograd is not None:
                autograd.save(ctx, tuple(inputs), output)
            return output

        @staticmethod
        def backward(ctx: Any, *d_outputs: Any) -> Any:
            if autograd is not None:
                return *autograd.backward(ops, ctx, *d_outputs), None
            return no_second_derivative(what) if name.endswith(("_backward", "_gradient")) else no_derivative(what)

    Node.__name__ = Node.__qualname__ = f"{operator.namespace}_{name}"

    def kernel(keys: Any, *arguments: Any) -> Any:
        if forward_ad._current_level >= 0 and any(map(_has_tangent, arguments)):
            no_forward_mode(what)
        if not (torch.is_grad_enabled() and _any_requires_grad(*arguments)):
            return run(keys, arguments)
        with enable_single_level_autograd_function() if _are_functorch_transforms_active() else nullcontext():
            return Node.apply(*arguments, keys)  # type: ignore[attr-defined]

    def plain(*arguments: Any) -> Any:
        if not wants_node(arguments):
            return run(None, arguments)
        return Node.apply(*arguments, None)  # type: ignore[attr-defined]

    return Ways(kernel, plain)


def in_place(operator: OpOverload, implementation: Callable[..., Any], written: list[int]) -> Callable[..., Any]:
    """What a plain call of an operator does that writes to these arguments."""

    def plain(*arguments: Any) -> Any:
        if wants_node(arguments):
            return operator(*arguments)
        implementation(*arguments)
        increment_version([arguments[n] for n in written])  # as the dispatcher would tell autograd
        return None

    return plain


@contextmanager
def _levels_below() -> Iterator[None]:
    """In the forward of a node grad mode is off, which is about its level of ``torch.func`` alone."""
    if not _are_functorch_transforms_active():
        yield
        return
    with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
        yield


def _has_tangent(value: object) -> bool:
    return isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None


class _FirstOnly(torch.autograd.Function):
    """Gradients, and a node that raises for whoever differentiates them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(what: str, number: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.view_as(x) for x in tensors[:number])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.what = inputs[0]

    @staticmethod
    def backward(ctx: Any, *d_outputs: Any) -> Any:
        no_second_derivative(ctx.what)


def first_only(what: str, gradients: tuple[Tensor | None, ...], *inputs: Tensor | None) -> tuple[Tensor | None, ...]:
    """``gradients``, which a backward made of ``inputs`` in steps that autograd does not see, for its return."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():  # compiled, it is an error of torch's
        return gradients
    given = [x for x in gradients if x is not None]
    kept = iter(_FirstOnly.apply(what, len(given), *given, *(x for x in inputs if x is not None)))
    return tuple(None if x is None else next(kept) for x in gradients)
