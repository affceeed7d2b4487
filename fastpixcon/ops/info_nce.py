"""Contract of ``info_nce``: the supervised contrastive loss of every anchor, no [N, M] matrix stored.

    anchors         [N, D], anchor_labels   [N] int32 or int64, -1 leaves a row out
    contrast        [M, D], contrast_labels [M]; None: the anchors themselves, without j = i
    temperature     [] float32 (float64 for float64 rows), from 2^-126, below which 1 / temperature is no float32, to
                    the largest float32
    denominator     "negatives" (Wang et al. 2021, eq. 3) or "all" (Khosla et al. 2020, L_out)
    rows            "raw": normalised here; "unit": already unit (or zero) rows; "any": taken as they are
    fixed_shift     the caller knows that temperature >= 0.025, for a backend that can't look at it: e^s of unit
                    rows then neither overflows nor vanishes, and sums of it need no running maximum
    is_sorted       the caller knows that both sets of labels ascend, with -1 last
    -> loss          [N] nats per anchor; 0 for an anchor without a positive
       log_sum       [N] "negatives": log sum_neg e^s; "all": log sum_{j != i} e^s; -inf for an empty sum
       weight        [N] "negatives": mean over positives of Z / (Z + e^s_ip); "all": zeros
       num_positives [N] int32

With s_ij = a_i.c_j / temperature, Z_i = sum_neg e^s_ij, P_i the positives of i:
    negatives: loss_i = mean_{p in P_i} log(1 + Z_i e^-s_ip)
    all:       loss_i = log_sum_i - mean_{p in P_i} s_ip
A row that takes part and has a NaN or an infinite number is NaN altogether, so the loss of every anchor with a positive
that is it, or has it among its positives or negatives, is NaN: also where Z_i = 0. "unit" rows have no infinity.
Backward, with G = dL/ds: d_anchors = G C / T (self contrast: (G + G^T) A / T), d_contrast = G^T A / T,
d_temperature = -sum_ij G_ij s_ij / T, which is read off the rows of d_anchors.
"""

from typing import Any

import torch
from torch import Tensor

from fastpixcon.ops.define import Autograd, define

SCHEMA = (
    "(Tensor anchors, Tensor anchor_labels, Tensor? contrast, Tensor? contrast_labels, Tensor temperature,"
    " str denominator, str rows, bool fixed_shift, bool is_sorted)"
    " -> (Tensor loss, Tensor log_sum, Tensor weight, Tensor num_positives)"
)
BACKWARD_SCHEMA = (
    "(Tensor d_loss, Tensor anchors, Tensor anchor_labels, Tensor? contrast, Tensor? contrast_labels,"
    " Tensor temperature, Tensor log_sum, Tensor weight, Tensor num_positives, str denominator, str rows,"
    " bool fixed_shift, bool is_sorted, bool[3] output_mask)"
    " -> (Tensor d_anchors, Tensor d_contrast, Tensor d_temperature)"
)


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def fake(
    anchors: Tensor,
    anchor_labels: Tensor,
    contrast: Tensor | None,
    contrast_labels: Tensor | None,
    temperature: Tensor,
    denominator: str,
    rows: str,
    fixed_shift: bool,
    is_sorted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n = anchors.shape[0]
    acc = _accumulation_dtype(anchors.dtype)
    loss, log_sum, weight = (anchors.new_empty(n, dtype=acc) for _ in range(3))
    return loss, log_sum, weight, anchors.new_empty(n, dtype=torch.int32)


def fake_backward(
    d_loss: Tensor,
    anchors: Tensor,
    anchor_labels: Tensor,
    contrast: Tensor | None,
    contrast_labels: Tensor | None,
    temperature: Tensor,
    log_sum: Tensor,
    weight: Tensor,
    num_positives: Tensor,
    denominator: str,
    rows: str,
    fixed_shift: bool,
    is_sorted: bool,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    d_anchors = anchors.new_empty(anchors.shape if output_mask[0] else (0,))
    d_contrast = anchors.new_empty(contrast.shape if output_mask[1] and contrast is not None else (0,))
    return d_anchors, d_contrast, torch.empty_like(temperature)


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    anchors, anchor_labels, contrast, contrast_labels, temperature, *how = inputs
    _, log_sum, weight, num_positives = output
    ctx.save_for_backward(
        anchors, anchor_labels, contrast, contrast_labels, temperature, log_sum, weight, num_positives
    )
    ctx.mark_non_differentiable(log_sum, weight, num_positives)
    ctx.set_materialize_grads(False)  # or torch fills zeros for each of them
    ctx.how = how


def backward(ops: Any, ctx: Any, d_loss: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad
    mask = [needs[0], needs[2], needs[4]]
    if d_loss is None or not any(mask):
        return (None,) * 9
    d_anchors, d_contrast, d_temperature = ops.info_nce_backward(d_loss, *ctx.saved_tensors, *ctx.how, mask)
    return (
        d_anchors if mask[0] else None,
        None,
        d_contrast if mask[1] else None,
        None,
        d_temperature if mask[2] else None,
        *(None,) * 4,
    )


define("info_nce", SCHEMA, fake, Autograd(save, backward))
define("info_nce_backward", BACKWARD_SCHEMA, fake_backward)
