"""Contract of ``pixel_contrast``: the loss of a map and what its gradient needs, in one call: ``select_anchors``,
``gather_normalize`` and ``info_nce_at_once`` of the anchors among themselves, one after the other, with their results.

    embeddings                            [B, D, h, w] as of ``gather_normalize``
    labels, predictions, seed, num_classes, max_samples, max_views, min_pixels, ignore_index
                                          as of ``select_anchors``
    rule                                  as of ``info_nce``, sorted and without groups
    scale                                 of the mean
    learns_temperature                    whether its gradient is wanted
    -> value, mass [N]                    as of ``info_nce_at_once``, N = max_samples
       index [N], label [N], segments [2, K]  as of ``select_anchors``
       rows [N, D], inv_norm [N]          as of ``gather_normalize``
       d_rows [N, D], d_temperature []    as of ``info_nce_at_once``: all of the value; what is not wanted is any number

Three calls of operators and the two nodes that autograd makes of them take a host longer than a GPU takes for what they
launch. Backward multiplies ``d_rows`` with the gradient of the value and scatters them, ``gather_normalize_backward``.
"""

from typing import Any

import torch
from torch import Tensor

from fastpixcon.ops import gather_normalize, select_anchors
from fastpixcon.ops.define import OPERATORS, Autograd, define
from fastpixcon.ops.derivatives import first_only
from fastpixcon.ops.info_nce_at_once import times
from fastpixcon.ops.signature import Size
from fastpixcon.values import Rule


def fake(
    embeddings: Tensor,
    labels: Tensor,
    predictions: Tensor,
    seed: Tensor,
    num_classes: Size,
    max_samples: int,
    max_views: int,
    min_pixels: int,
    ignore_index: int,
    rule: Rule,
    scale: float,
    learns_temperature: bool,
) -> tuple[Tensor, ...]:
    index, label, _count, segments = select_anchors.fake(
        labels, predictions, seed, num_classes, max_samples, max_views, min_pixels, ignore_index
    )
    rows, inv_norm = gather_normalize.fake(embeddings, index)
    d_rows = torch.empty_like(rows, dtype=torch.float32 if rows.dtype == torch.float16 else rows.dtype)
    value, mass = inv_norm.new_empty(()), torch.empty_like(inv_norm)
    return value, mass, index, label, segments, rows, inv_norm, d_rows, torch.empty_like(rule.temperature)


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    value, _mass, index, _label, _segments, rows, inv_norm, d_rows, d_temperature = output
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    # By the value, which belongs to the graph, a second derivative finds its way, and raises; a map would be kept for
    # it alone.
    ctx.save_for_backward(d_rows, rows, inv_norm, index, d_temperature, inputs[TEMPERATURE], value)
    ctx.size, ctx.channels_last = gather_normalize.layout_of(inputs[EMBEDDINGS])
    ctx.count = len(inputs)


def backward(ops: Any, ctx: Any, d_value: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    gradients: list[Tensor | None] = [None] * ctx.count
    if d_value is None:
        return tuple(gradients)
    d_rows, rows, inv_norm, index, d_temperature, temperature, value = ctx.saved_tensors
    given: list[Tensor | None] = [None, None]
    if ctx.needs_input_grad[EMBEDDINGS]:
        d = times(d_rows, d_value, rows.dtype)
        given[0] = ops.gather_normalize_backward(d, rows, inv_norm, index, ctx.size, ctx.channels_last)
    if ctx.needs_input_grad[TEMPERATURE]:
        given[1] = times(d_temperature, d_value, temperature.dtype)
    what = f"pixel_contrast on backend {ops.backend!r}"
    gradients[EMBEDDINGS], gradients[TEMPERATURE] = first_only(what, tuple(given), d_value, value, temperature)
    return tuple(gradients)


define(
    "pixel_contrast",
    fake,
    "value mass index label segments rows inv_norm d_rows d_temperature",
    Autograd(save, backward),
)
DIFFERENTIABLE = [OPERATORS["pixel_contrast"].place(name) for name in ("embeddings", "temperature")]
EMBEDDINGS, TEMPERATURE = DIFFERENTIABLE
