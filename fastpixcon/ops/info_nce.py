"""Contract of ``info_nce``: the supervised contrastive loss of every anchor, no [N, M] matrix stored.

    anchors   rows [N, D], labels, weights as contrast rows where they are some, and groups [N]
    contrast  rows [M, D], labels, weights and groups [M]; None: the anchors themselves, without j = i
    rule      see ``fastpixcon/values.py``
    rows      "raw": normalised here; "unit": already unit (or zero) rows; "any": taken as they are
    -> loss     [N] nats per anchor; 0 for an anchor without a positive
       log_sum  [N] log Z; -inf for an empty sum
       weight   [N] "negatives": mean over positives of Z / (Z + e^s_ip); else zeros
       mass     [N] float32 (float64 for float64 rows): sum over positives of their weights

With s_ij = a_i.c_j / temperature, v and u the weights of a contrast row as a positive and as a negative, W the class
weights, P_i and N_i the positives and negatives of i: rows of its label and of others, as far as the rule of the groups
lets it have them, not itself::

    Z_i = sum_{j in N_i} u_j W[y_i, y_j] e^s_ij         "all": and sum_{p in P_i} v_p e^s_ip
    negatives:       loss_i = mean_{p in P_i} log(1 + Z_i e^-s_ip)
    all, decoupled:  loss_i = log Z_i - mean_{p in P_i} s_ip, 0 for Z_i = 0

where the mean over positives is sum v_p f(p) / sum v_p.

A row that takes part and has a NaN or an infinite number is NaN altogether, so the loss of every anchor with a positive
that is it, or has it among its positives or negatives, is NaN: also where Z_i = 0. "unit" rows have no infinity.
Backward, with G = dL/ds: d_anchors = G C / T (self contrast: (G + G^T) A / T), d_contrast = G^T A / T,
d_temperature = -sum_ij G_ij s_ij / T, which is read off the rows of d_anchors.
"""

from typing import Any

import torch
from torch import Tensor

from fastpixcon.ops.define import OPERATORS, Autograd, define
from fastpixcon.ops.signature import Mask
from fastpixcon.values import Rows, Rule, Statistics


def fake(anchors: Rows, contrast: Rows | None, rule: Rule, rows: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, n = anchors.x, anchors.x.shape[0]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    loss, log_sum, weight, mass = (x.new_empty(n, dtype=dtype) for _ in range(4))
    return loss, log_sum, weight, mass


def fake_backward(
    statistics: Statistics, anchors: Rows, contrast: Rows | None, rule: Rule, rows: str, output_mask: Mask
) -> tuple[Tensor, Tensor, Tensor]:
    x = anchors.x
    d_anchors = x.new_empty(x.shape if output_mask[0] else (0,))
    d_contrast = x.new_empty(contrast.x.shape if output_mask[1] and contrast is not None else (0,))
    return d_anchors, d_contrast, torch.empty_like(rule.temperature)


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, *found = output
    ctx.mark_non_differentiable(*found)
    ctx.set_materialize_grads(False)  # or torch fills zeros for each of them
    ctx.save_for_backward(*found, *(x for x in inputs if isinstance(x, Tensor)))
    ctx.others = [None if isinstance(x, Tensor) else (x,) for x in inputs]


def backward(ops: Any, ctx: Any, d_loss: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    mask = [ctx.needs_input_grad[at] for at in DIFFERENTIABLE]
    gradients: list[Tensor | None] = [None] * len(ctx.others)
    if d_loss is None or not any(mask):
        return tuple(gradients)
    log_sum, weight, mass, *tensors = ctx.saved_tensors
    rest = iter(tensors)
    inputs = [next(rest) if other is None else other[0] for other in ctx.others]
    d_inputs = ops.info_nce_backward(d_loss, log_sum, weight, mass, *inputs, mask)
    for at, wanted, gradient in zip(DIFFERENTIABLE, mask, d_inputs, strict=True):
        gradients[at] = gradient if wanted else None
    return tuple(gradients)


define("info_nce", fake, "loss log_sum weight mass", Autograd(save, backward))
define("info_nce_backward", fake_backward, "d_anchors d_contrast d_temperature")
DIFFERENTIABLE = [OPERATORS["info_nce"].place(name) for name in ("anchors", "contrast", "temperature")]
