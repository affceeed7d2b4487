"""Calls at which nothing but autograd looks: they need not go through the dispatcher, which takes longer than many a
launch. Everything else does: what traces, modes of torch, ``torch.func``, tensors of other classes."""

from collections.abc import Iterable
from types import NoneType
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet, _any_requires_grad
from torch._C import _dispatch_keys as dispatch_keys
from torch.autograd import forward_ad

__all__ = ["constant", "is_plain", "wants_node"]

CLASSES = (Tensor, torch.nn.Parameter)  # others have a __torch_function__ or a __torch_dispatch__
NO_TENSORS = frozenset([NoneType, bool, int, float, str, list])  # most of what operators take besides
AUTOCASTS = (DispatchKey.AutocastCPU, DispatchKey.AutocastCUDA)
DENSE = (DispatchKey.CPU, DispatchKey.CUDA, DispatchKey.AutogradCPU, DispatchKey.AutogradCUDA)


def _bits(*keys: Any) -> int:
    found = 0
    for key in keys:
        found |= DispatchKeySet(key).raw_repr()
    return found


NOT_OF_TENSORS = ~_bits(*DENSE, *AUTOCASTS, DispatchKey.ADInplaceOrView)
NOT_OF_THREAD = ~_bits(DispatchKey.BackendSelect, DispatchKey.ADInplaceOrView)
AUTOGRAD = _bits(DispatchKey.AutogradOther)


def is_plain(arguments: Iterable[Any]) -> bool:
    """Whether a call of an operator with these arguments is one; for Dynamo it never is."""
    if torch.compiler.is_compiling():
        return False
    if torch._C._dispatch_tls_local_include_set().raw_repr() & NOT_OF_THREAD:
        return False  # a mode, torch.func, a tracer
    if torch._C._len_torch_function_stack() or forward_ad._current_level >= 0:
        return False
    for x in arguments:  # tens of them, several times a step: what they are not is asked in the order of its cost
        kind = type(x)
        if kind in NO_TENSORS:
            continue
        if kind in CLASSES:
            if dispatch_keys(x).raw_repr() & NOT_OF_TENSORS:
                return False
        elif isinstance(x, Tensor):
            return False
    return True


CONSTANTS: dict[tuple[Any, ...], Tensor] = {}
MOST_CONSTANTS = 64  # a schedule may have many


def constant(value: float, dtype: torch.dtype, like: Tensor) -> Tensor:
    """``value``, [] on the device of ``like``, which nobody writes to: the same one as in the last plain call."""
    device = like.device
    # A graph keeps what it was captured with, which may be gone from here when it is replayed.
    if not is_plain((like,)) or (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
        return torch.full((), value, dtype=dtype, device=device)
    # What one stream filled another one would have to wait for.
    stream = torch._C._cuda_getCurrentRawStream(device.index) if device.type == "cuda" else 0
    key = (value, dtype, device, stream)
    found = CONSTANTS.get(key)
    if found is not None:
        return found
    with torch.inference_mode(False):  # autograd may save it
        found = torch.full((), value, dtype=dtype, device=device)
    if len(CONSTANTS) >= MOST_CONSTANTS:
        CONSTANTS.clear()
    CONSTANTS[key] = found
    return found


def wants_node(arguments: Iterable[Any]) -> bool:
    """Whether autograd takes part in a plain call."""
    if not (torch.is_grad_enabled() and _any_requires_grad(*arguments)):
        return False
    return not torch._C._dispatch_tls_local_exclude_set().raw_repr() & AUTOGRAD  # who calls may be below it already
