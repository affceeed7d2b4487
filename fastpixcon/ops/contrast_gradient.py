"""Contract of ``contrast_gradient``: the backward over one contrast set of several, see ``contrast_sums``.

d_loss   [N] gradient of the loss of every anchor
log_sum, weight, count   [N] log Z_i, mean of Z_i / (Z_i + e^s_ip) and number of positives, of all sets together
column_d_loss, column_log_sum, column_weight, column_count   [M] of the contrast rows as anchors; None unless mutual
-> d_anchors      [N, D] float32 (float64 for float64 rows), of this set
   d_contrast     [M, D] the same; [0] for contrast None or where it is not wanted
   d_temperature  [] -sum G_ij s_ij / T over this set
"""

import torch
from torch import Tensor

from fastpixcon.ops.define import define

SCHEMA = (
    "(Tensor d_loss, Tensor? column_d_loss, Tensor anchors, Tensor anchor_labels, Tensor? contrast,"
    " Tensor? contrast_labels, Tensor temperature, Tensor log_sum, Tensor weight, Tensor count,"
    " Tensor? column_log_sum, Tensor? column_weight, Tensor? column_count, str denominator, bool fixed_shift,"
    " bool is_sorted, int? diagonal, Tensor? mined, Tensor? seed, bool[3] output_mask)"
    " -> (Tensor d_anchors, Tensor d_contrast, Tensor d_temperature)"
)


def fake(
    d_loss: Tensor,
    column_d_loss: Tensor | None,
    anchors: Tensor,
    anchor_labels: Tensor,
    contrast: Tensor | None,
    contrast_labels: Tensor | None,
    temperature: Tensor,
    log_sum: Tensor,
    weight: Tensor,
    count: Tensor,
    column_log_sum: Tensor | None,
    column_weight: Tensor | None,
    column_count: Tensor | None,
    denominator: str,
    fixed_shift: bool,
    is_sorted: bool,
    diagonal: int | None,
    mined: Tensor | None,
    seed: Tensor | None,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.float64 if anchors.dtype == torch.float64 else torch.float32
    d_anchors = anchors.new_empty(anchors.shape if output_mask[0] else (0,), dtype=dtype)
    d_contrast = anchors.new_empty(contrast.shape if output_mask[1] and contrast is not None else (0,), dtype=dtype)
    return d_anchors, d_contrast, torch.empty_like(temperature)


define("contrast_gradient", SCHEMA, fake)
