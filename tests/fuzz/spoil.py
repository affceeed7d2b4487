"""Arguments of a call, made worse: other strides, values that no contract mentions, other shapes, dtypes and types."""

from random import Random
from typing import Any

import torch
from torch import Tensor

FLOATS = (float("nan"), float("inf"), -float("inf"), 3e38, 1e-40, -0.0, 1e15)
INTEGERS = (-(2**63), -(2**31), -300, -2, -1, 0, 1, 3, 255, 2**31 - 1, 2**31, 2**63 - 1)
# No sizes that memory might have room for.
NUMBERS = (-(2**63), -1, 0, 1, 3, 2**62, 2**63 - 1)
TYPES = (torch.float64, torch.bool, torch.int8, torch.int32, torch.int64, torch.bfloat16, torch.complex64)


def with_strides(x: Tensor, random: Random) -> Tensor:
    """The same values, elsewhere in memory; what lies between them is a pattern."""
    if x.dim() == 0:
        return x.new_full((3,), 77)[1:2].copy_(x)[0]
    order = random.sample(range(x.dim()), x.dim())
    wide = [x.shape[k] * 2 + 3 for k in order]
    view = torch.full(wide, 77, dtype=torch.float32).to(x.dtype)
    for axis in range(x.dim()):
        first = random.randrange(4)
        view = view.narrow(axis, first, x.shape[order[axis]]) if random.random() < 0.5 else (
            view[(slice(None),) * axis + (slice(first, first + 2 * x.shape[order[axis]], 2),)]
        )  # fmt: skip
    return view.permute([order.index(k) for k in range(x.dim())]).copy_(x)


def values(x: Tensor, random: Random) -> Tensor:
    """Some elements, or all, replaced."""
    x = x.clone(memory_format=torch.preserve_format)
    if x.numel() == 0:
        return x
    for _ in range(random.choice((1, 1, 3, 20))):
        at = tuple(random.randrange(size) for size in x.shape[: random.choice((x.dim(), random.randint(0, x.dim())))])
        if x.is_floating_point():
            new = random.choice(FLOATS)
            x[at] = min(new, torch.finfo(x.dtype).max) if new == 3e38 else new
        else:
            limits = torch.iinfo(x.dtype)
            x[at] = min(max(random.choice(INTEGERS), limits.min), limits.max)
    return x


def shape(x: Tensor, random: Random) -> Any:
    way = random.randrange(9)
    axis = random.randrange(max(1, x.dim()))
    if way == 0:
        return x.to(random.choice(TYPES))
    if way == 1:
        return x[None]
    if x.dim() == 0:
        return x.expand(random.randrange(4))
    if way == 2:
        return x.select(axis, 0) if x.shape[axis] else x
    if way == 3:
        return x.narrow(axis, 0, random.choice((0, min(1, x.shape[axis]), random.randint(0, x.shape[axis]))))
    if way == 4:
        return torch.cat([x, x[:1]]) if axis == 0 else x.repeat_interleave(2, dim=axis)
    if way == 5:
        return x.narrow(axis, 0, min(1, x.shape[axis])).expand_as(x) if x.shape[axis] else x
    if way == 6:
        return x.transpose(0, axis)
    if way == 7:
        return x.flatten()
    return None


def anything(x: Any, random: Random) -> Any:
    """In place of an argument that is no tensor."""
    if isinstance(x, bool):
        return not x
    if isinstance(x, int):
        return random.choice(NUMBERS)
    if isinstance(x, float):
        return random.choice((*FLOATS, 0.0, -1.0, 1.0))
    if isinstance(x, str):
        return random.choice(("", "x", "negatives", "all", "raw", "unit", "any", "none", "hardest"))
    if isinstance(x, list) and x:
        return random.choice((x[1:], [*x, x[0]], [anything(y, random) for y in x]))
    return x


def layouts(arguments: list[Any], random: Random) -> list[Any]:
    return [with_strides(x, random) if isinstance(x, Tensor) and random.random() < 0.7 else x for x in arguments]


def some_values(arguments: list[Any], random: Random, spared: frozenset[int] = frozenset()) -> list[Any]:
    """``spared``: arguments whose values callers have checked."""
    chosen = random.choice([k for k, x in enumerate(arguments) if isinstance(x, Tensor) and k not in spared])
    return [values(x, random) if k == chosen else x for k, x in enumerate(arguments)]


def some_shapes(arguments: list[Any], random: Random) -> list[Any]:
    arguments = list(arguments)
    for k in random.sample(range(len(arguments)), random.choice((1, 1, 1, 2))):
        x = arguments[k]
        arguments[k] = shape(x, random) if isinstance(x, Tensor) else anything(x, random)
    return arguments
