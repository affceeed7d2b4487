"""The total of the losses and its gradients, one after the other."""

import torch
from torch import Tensor

from fastpixcon.reference.info_nce import info_nce, info_nce_backward
from fastpixcon.values import Rows, Rule, Statistics


def info_nce_total(
    anchors: Rows, contrast: Rows | None, rule: Rule, rows: str, d_loss: Tensor | None, output_mask: list[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    loss, *found = info_nce(anchors, contrast, rule, rows)
    d_loss = loss.new_ones(()).expand_as(loss) if d_loss is None else d_loss.to(loss)
    total = (d_loss * loss).where(found[-1] > 0, 0).sum()
    *d_rows, d_temperature = info_nce_backward(Statistics(d_loss, *found), anchors, contrast, rule, rows, output_mask)
    d_anchors, d_contrast = (d.float() if d.dtype == torch.float16 else d for d in d_rows)
    return total, found[-1], d_anchors, d_contrast, d_temperature
