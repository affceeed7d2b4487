"""Contract of ``contrast_mean``: the mean of a loss over several contrast sets, the batch and a memory bank, in one
call: the steps of ``contrast_sums`` and ``memory_sums``, log Z, ``contrast_positives`` and ``memory_positives``.

    anchors, contrast, rule, pairs  as in ``contrast_sums``
    bank             as in ``memory_sums``, for which anchors are rounded to its dtype; None: no such set
    use_batch        False: neither anchors nor contrast rows are a contrast set
    taint            [N] in the dtype of mass, added to each loss: NaN of an anchor whose loss is NaN although mining
                     keeps none of its pairs; None: zeros
    anchor_weights   [N] >= 0 in the dtype of mass, w; None: ones
    scale            a number, times which it is
    reduction        "mean", "sum" or "none"
    wants_gradient   whether the anchors or the temperature may want one
    -> value    [] scale sum_i w_i loss_i / sum_i w_i over the anchors that have a positive, 0 where w_i of them are;
                "sum": not divided; "none": [N] scale w_i loss_i, 0 of an anchor without a positive
       share    [] what a loss of weight 1 is of it: scale / sum_i w_i; of "sum" and "none" scale
       log_sum  [N] log Z of all sets; weight [N] mean over all positives of Z / (Z + e^s), "negatives"; mass [N] of
                all positives
       memory_gradient  [N, D] float32 (float64 for float64 rows): of each loss with respect to its anchor, as far as
                it comes from the bank, see ``memory_sums``; [0] without a bank, or unless wants_gradient

A loss that is NaN counts also where the anchor has no positive. Backward: ``contrast_gradient`` of the batch, with
d_loss_i = d_value share w_i, and d_loss_i memory_gradient_i; it needs nothing of the bank, which may have changed.
"""

from typing import Any

import torch
from torch import Tensor

from fastpixcon.ops.define import OPERATORS, Autograd, define
from fastpixcon.ops.derivatives import first_only
from fastpixcon.values import BankRows, Pairs, Rows, Rule

WHAT = "the loss over several contrast sets"  # in errors


def fake(
    anchors: Rows,
    contrast: Rows | None,
    rule: Rule,
    pairs: Pairs,
    bank: BankRows | None,
    use_batch: bool,
    taint: Tensor | None,
    anchor_weights: Tensor | None,
    scale: float,
    reduction: str,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, n = anchors.x, anchors.x.shape[0]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    value = x.new_empty((n,) if reduction == "none" else (), dtype=dtype)
    share = x.new_empty((), dtype=dtype)
    log_sum, weight, mass = (x.new_empty(n, dtype=dtype) for _ in range(3))
    memory_gradient = x.new_empty(x.shape if wants_gradient and bank is not None else (0,), dtype=dtype)
    return value, share, log_sum, weight, mass, memory_gradient


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, *found = output
    ctx.mark_non_differentiable(*found)
    ctx.set_materialize_grads(False)  # or torch fills zeros for each of them
    given = inputs[:GIVEN]
    ctx.save_for_backward(*found, inputs[ANCHOR_WEIGHTS], *(x for x in given if isinstance(x, Tensor)))
    ctx.others = [None if isinstance(x, Tensor) else (x,) for x in given]
    ctx.sets = inputs[USE_BATCH], inputs[GIVEN] is not None  # the batch, a bank
    ctx.count = len(inputs)


def backward(ops: Any, ctx: Any, d_value: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad  # made anew at every look
    mask = [needs[at] for at in DIFFERENTIABLE]
    gradients: list[Tensor | None] = [None] * ctx.count
    if d_value is None or not any(mask):
        return tuple(gradients)
    share, log_sum, weight, mass, memory_gradient, anchor_weights, *tensors = ctx.saved_tensors
    rest = iter(tensors)
    given = [next(rest) if other is None else other[0] for other in ctx.others]
    anchors, contrast, temperature = (given[at] for at in DIFFERENTIABLE)
    d_loss = d_value * share  # [] or [N]
    d_loss = d_loss.expand_as(mass) if anchor_weights is None else d_loss * anchor_weights
    use_batch, has_bank = ctx.sets
    d_anchors, d_contrast, d_temperature = None, None, None
    if use_batch:
        of_batch = ops.contrast_gradient(d_loss, log_sum, weight, mass, None, None, None, None, *given, mask)
        d_anchors, d_contrast, d_temperature = (x if wants else None for x, wants in zip(of_batch, mask, strict=True))
    elif mask[2]:
        d_temperature = torch.zeros_like(temperature)
    if has_bank and (mask[0] or mask[2]):
        both = with_memory(d_anchors, d_temperature, d_loss, memory_gradient, anchors, temperature)
        d_anchors, d_temperature = both if mask[0] else (None, both[1])
    found = [d_anchors, d_contrast, d_temperature]
    for n, like in enumerate((anchors, contrast)):
        x = found[n]
        found[n] = None if x is None or like is None else x.to(like.dtype)
    for at, gradient in zip(
        DIFFERENTIABLE, first_only(WHAT, tuple(found), d_value, anchors, contrast, temperature), strict=True
    ):
        gradients[at] = gradient
    return tuple(gradients)


def with_memory(
    d_anchors: Tensor | None,
    d_temperature: Tensor | None,
    d_loss: Tensor,
    memory_gradient: Tensor,
    anchors: Tensor,
    temperature: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """The gradients of the batch (of the anchors None: it has none) and of the memory together; of the temperature
    None: not wanted."""
    if d_temperature is None and d_anchors is not None:
        return torch.addcmul(d_anchors, d_loss.unsqueeze(1), memory_gradient), None
    d_memory = d_loss.unsqueeze(1) * memory_gradient  # [N, D]
    if d_temperature is not None:
        d_temperature = d_temperature - (d_memory * anchors).sum() / temperature
    return d_memory if d_anchors is None else d_anchors + d_memory, d_temperature


returns = "value share log_sum weight mass memory_gradient"
define("contrast_mean", fake, returns, Autograd(save, backward))
_of = OPERATORS["contrast_mean"]
DIFFERENTIABLE = [_of.place(name) for name in ("anchors", "contrast", "temperature")]
GIVEN = _of.place("bank")  # before it are the arguments of contrast_gradient
USE_BATCH, ANCHOR_WEIGHTS = _of.place("use_batch"), _of.place("anchor_weights")
