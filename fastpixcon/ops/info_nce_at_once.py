"""Contract of ``info_nce_at_once``: what :mod:`info_nce_mean <fastpixcon.ops.info_nce_mean>` gives, and its gradients
in the same call.

    anchors, contrast, rule, rows, anchor_weights, scale, mean  as there
    output_mask  which gradients are wanted: of the anchors, of the contrast rows, of the temperature
    -> value          [] as there
       mass           [N] as there
       d_anchors      [N, D], d_contrast [M, D] in the dtype of the rows, float32 of float16, which has no exponents for
                      means over many anchors; d_temperature []: all of the value; what is not wanted is empty, or
                      any number

The backward multiplies them with the gradient of the value. On CPUs no product of rows is computed twice: 6 N M D
FLOP for 8 of separate rows, 3 N^2 D for 4 of self contrast, whose tiles stay where they are a few MiB. On GPUs products
are those of two calls, but rows are put in order and prepared once, which counts where launches take as long as they.
"""

from typing import Any

import torch
from torch import Tensor

from fastpixcon.ops.define import OPERATORS, Autograd, define
from fastpixcon.ops.derivatives import first_only
from fastpixcon.ops.plain import is_plain
from fastpixcon.ops.signature import Mask
from fastpixcon.values import Rows, Rule


def fake(
    anchors: Rows,
    contrast: Rows | None,
    rule: Rule,
    rows: str,
    anchor_weights: Tensor | None,
    scale: float,
    mean: bool,
    output_mask: Mask,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x = anchors.x
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    waiting = torch.float32 if x.dtype == torch.float16 else x.dtype
    d_anchors = x.new_empty(x.shape if output_mask[0] else (0,), dtype=waiting)
    d_contrast = x.new_empty(contrast.x.shape if output_mask[1] and contrast is not None else (0,), dtype=waiting)
    value, mass = x.new_empty((), dtype=dtype), x.new_empty(x.shape[0], dtype=dtype)
    return value, mass, d_anchors, d_contrast, torch.empty_like(rule.temperature)


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, *others = output
    ctx.mark_non_differentiable(*others)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*others[1:], *(inputs[at] for at in DIFFERENTIABLE))
    ctx.count = len(inputs)


def backward(ops: Any, ctx: Any, d_value: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    gradients: list[Tensor | None] = [None] * ctx.count
    if d_value is None:
        return tuple(gradients)
    saved = ctx.saved_tensors  # once: under a checkpoint they are computed anew
    of_value, inputs = saved[:3], saved[3:]
    wanted = [ctx.needs_input_grad[at] for at in DIFFERENTIABLE]
    given = tuple(
        times(d, d_value, x.dtype) if wants else None for wants, d, x in zip(wanted, of_value, inputs, strict=True)
    )
    what = f"info_nce on backend {ops.backend!r}"
    for at, gradient in zip(DIFFERENTIABLE, first_only(what, given, d_value, *inputs), strict=True):
        gradients[at] = gradient
    return tuple(gradients)


def is_one(x: Tensor) -> bool:
    """Whether it is known to be: nobody waits for a device to say so."""
    return x.device.type == "cpu" and is_plain((x,)) and float(x) == 1


def times(d: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """``d`` times a number, []."""
    if is_one(factor):
        return d.to(dtype)
    if d.dtype == dtype or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return (d * factor).to(dtype)
    return torch.mul(d, factor, out=d.new_empty(d.shape, dtype=dtype))  # one launch for both


define("info_nce_at_once", fake, "value mass d_anchors d_contrast d_temperature", Autograd(save, backward))
DIFFERENTIABLE = [OPERATORS["info_nce_at_once"].place(name) for name in ("anchors", "contrast", "temperature")]
