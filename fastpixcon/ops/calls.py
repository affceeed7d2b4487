"""What a call knows of itself: the random number that is its own, and whether it is computed anew.

A forward under ``torch.utils.checkpoint`` runs once more within the backward. torch gives it the random state that it
had, so that of torch's generator it draws the same number; what it changed, a memory bank, it must not change again.
"""

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active

from fastpixcon.ops.define import define_host

__all__ = ["computed_anew", "draw_seed"]

MOST = 2**63 - 1


def _draw(like: Tensor) -> Tensor:
    return torch.randint(MOST, (), dtype=torch.int64, device=like.device)


def _fake_draw(like: Tensor) -> Tensor:
    return like.new_empty((), dtype=torch.int64)


# An operator, so that a compiled graph draws the numbers that eager draws.
_drawn = define_host("draw_seed", "(Tensor like) -> Tensor", _draw, _fake_draw, torch.Tag.nondeterministic_seeded)


def draw_seed(like: Tensor) -> Tensor:
    """The next number of torch's generator of the device of ``like``, [] int64 in [0, 2^63 - 1)."""
    if not torch.compiler.is_compiling() and not _are_functorch_transforms_active():
        return _draw(like)
    with torch.no_grad():
        drawn: Tensor = _drawn(like)
    return drawn


def within_backward() -> bool:
    """Whether this thread is in a backward, of autograd's engine or of torch.compile."""
    return torch._C._current_graph_task_id() != -1


def _within_backward(like: Tensor) -> Tensor:
    return torch.full((), within_backward(), device=like.device)


def _fake_within_backward(like: Tensor) -> Tensor:
    return like.new_empty((), dtype=torch.bool)


_asked = define_host("within_backward", "(Tensor like) -> Tensor", _within_backward, _fake_within_backward)


def computed_anew(like: Tensor) -> bool | Tensor:
    """Whether this forward runs within a backward; in a compiled graph, which is asked anew at every run, a [] bool
    tensor on the device of ``like``."""
    if torch.compiler.is_compiling():
        asked: Tensor = _asked(like)
        return asked
    return within_backward()
