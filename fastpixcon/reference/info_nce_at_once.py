"""The mean of the losses and its gradients, one after the other."""

import torch
from torch import Tensor

from fastpixcon.reference.info_nce import info_nce, info_nce_backward
from fastpixcon.reference.info_nce_mean import mean_of
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
    loss, *found = info_nce(anchors, contrast, rule, rows)
    mass = found[-1]
    value, share = mean_of(loss, mass, anchor_weights, scale, mean)
    d_loss = share.expand_as(loss) if anchor_weights is None else share * anchor_weights.to(loss)
    *d_rows, d_temperature = info_nce_backward(Statistics(d_loss, *found), anchors, contrast, rule, rows, output_mask)
    d_anchors, d_contrast = (d.float() if d.dtype == torch.float16 else d for d in d_rows)
    return value, mass, d_anchors, d_contrast, d_temperature
