"""The mean of the losses and its gradients: rows are put in order and prepared once for both."""

import torch
from torch import Tensor

from fastpixcon.kernels.info_nce import gradients_of, losses_of
from fastpixcon.kernels.info_nce_mean import mean_of
from fastpixcon.kernels.info_nce_rows import prepare_both
from fastpixcon.values import Rows, Rule, Statistics


def info_nce_at_once(
    anchors: Rows,
    contrast: Rows | None,
    rule: Rule,
    rows: str,
    anchor_weights: Tensor | None,
    scale: float,
    mean: bool,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    prepared = prepare_both(anchors, contrast, rule, rows)
    loss, *found = losses_of(prepared, rule, rows)
    value, share = mean_of(loss, found[-1], anchor_weights, scale, mean)
    d_loss = share.expand_as(loss) if anchor_weights is None else share * anchor_weights
    dtype = torch.float32 if anchors.x.dtype == torch.float16 else anchors.x.dtype
    gradients = gradients_of(prepared, Statistics(d_loss, *found), anchors, contrast, rule, rows, output_mask, dtype)
    return value, found[-1], *gradients
