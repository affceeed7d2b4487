"""Contract of ``info_nce_total``: the total of the losses of :mod:`info_nce <fastpixcon.ops.info_nce>`, and its
gradients at once, where their weights are known before the backward.

    anchors, contrast, rule, rows  as there
    d_loss       [N] in the dtype of mass: what each loss weighs in the total; None: ones
    output_mask  which gradients are wanted: of the anchors, of the contrast rows, of the temperature
    -> total          [] sum_i d_loss_i loss_i over the anchors that have a positive
       mass           [N] as there
       d_anchors      [N, D], d_contrast [M, D] in the dtype of the rows, float32 of float16, which has no exponents for
                      means over many anchors; d_temperature []: all of the total; what is not wanted is empty, or
                      any number

The backward multiplies them with the gradient of the total, so that no product of rows is computed twice: on CPUs,
6 N M D FLOP for 8 of separate rows, 3 N^2 D for 4 of self contrast, whose tiles stay where they are a few MiB. On GPUs
it is one after the other, and nothing chooses it there.
"""

from typing import Any

import torch
from torch import Tensor

from fastpixcon.ops.define import OPERATORS, Autograd, define
from fastpixcon.ops.derivatives import first_only
from fastpixcon.ops.signature import Mask
from fastpixcon.values import Rows, Rule


def fake(
    anchors: Rows, contrast: Rows | None, rule: Rule, rows: str, d_loss: Tensor | None, output_mask: Mask
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x = anchors.x
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    waiting = torch.float32 if x.dtype == torch.float16 else x.dtype
    d_anchors = x.new_empty(x.shape if output_mask[0] else (0,), dtype=waiting)
    d_contrast = x.new_empty(contrast.x.shape if output_mask[1] and contrast is not None else (0,), dtype=waiting)
    total, mass = x.new_empty((), dtype=dtype), x.new_empty(x.shape[0], dtype=dtype)
    return total, mass, d_anchors, d_contrast, torch.empty_like(rule.temperature)


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, *others = output
    ctx.mark_non_differentiable(*others)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*others[1:], *(inputs[at] for at in DIFFERENTIABLE))
    ctx.count = len(inputs)


def backward(ops: Any, ctx: Any, d_total: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    gradients: list[Tensor | None] = [None] * ctx.count
    if d_total is None:
        return tuple(gradients)
    saved = ctx.saved_tensors  # once: under a checkpoint they are computed anew
    of_total, inputs = saved[:3], saved[3:]
    wanted = [ctx.needs_input_grad[at] for at in DIFFERENTIABLE]
    given = tuple(
        (d * d_total).to(x.dtype) if wants else None for wants, d, x in zip(wanted, of_total, inputs, strict=True)
    )
    what = f"info_nce on backend {ops.backend!r}"
    for at, gradient in zip(DIFFERENTIABLE, first_only(what, given, d_total, *inputs), strict=True):
        gradients[at] = gradient
    return tuple(gradients)


define("info_nce_total", fake, "total mass d_anchors d_contrast d_temperature", Autograd(save, backward))
DIFFERENTIABLE = [OPERATORS["info_nce_total"].place(name) for name in ("anchors", "contrast", "temperature")]
