"""Contract of ``info_nce_mean``: the mean of the losses of :mod:`info_nce <fastpixcon.ops.info_nce>`, or their sum.

    anchors, contrast, rule, rows  as there
    anchor_weights  [N] >= 0 in the dtype of mass, w; None: ones
    scale           a number, times which it is
    mean            over the anchors that have a positive; False: their sum
    -> value    [] scale sum_i w_i loss_i / sum_i w_i over the anchors that have a positive, 0 where w_i of them are;
                of a sum not divided
       share    [] what a loss of weight 1 is of it: scale / sum_i w_i; of a sum scale
       log_sum, weight, mass  [N] as there

Backward: that of ``info_nce``, with d_loss_i = d_value share w_i.
"""

from typing import Any

import torch
from torch import Tensor

from fastpixcon.ops.define import OPERATORS, Autograd, define
from fastpixcon.values import Rows, Rule


def fake(
    anchors: Rows,
    contrast: Rows | None,
    rule: Rule,
    rows: str,
    anchor_weights: Tensor | None,
    scale: float,
    mean: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, n = anchors.x, anchors.x.shape[0]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    value, share = (x.new_empty((), dtype=dtype) for _ in range(2))
    log_sum, weight, mass = (x.new_empty(n, dtype=dtype) for _ in range(3))
    return value, share, log_sum, weight, mass


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, *found = output
    ctx.mark_non_differentiable(*found)
    ctx.set_materialize_grads(False)  # or torch fills zeros for each of them
    ctx.save_for_backward(*found, inputs[ANCHOR_WEIGHTS], *(x for x in inputs[:GIVEN] if isinstance(x, Tensor)))
    ctx.others = [None if isinstance(x, Tensor) else (x,) for x in inputs[:GIVEN]]
    ctx.count = len(inputs)


def backward(ops: Any, ctx: Any, d_value: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    mask = [ctx.needs_input_grad[at] for at in DIFFERENTIABLE]
    gradients: list[Tensor | None] = [None] * ctx.count
    if d_value is None or not any(mask):
        return tuple(gradients)
    share, log_sum, weight, mass, anchor_weights, *tensors = ctx.saved_tensors
    rest = iter(tensors)
    given = [next(rest) if other is None else other[0] for other in ctx.others]
    d_loss = d_value * share  # []
    d_loss = d_loss.expand_as(mass) if anchor_weights is None else d_loss * anchor_weights
    d_inputs = ops.info_nce_backward(d_loss, log_sum, weight, mass, *given, mask)
    for at, wanted, gradient in zip(DIFFERENTIABLE, mask, d_inputs, strict=True):
        gradients[at] = gradient if wanted else None
    return tuple(gradients)


define("info_nce_mean", fake, "value share log_sum weight mass", Autograd(save, backward))
_of = OPERATORS["info_nce_mean"]
DIFFERENTIABLE = [_of.place(name) for name in ("anchors", "contrast", "temperature")]
ANCHOR_WEIGHTS = GIVEN = _of.place("anchor_weights")  # before it are the arguments of info_nce
