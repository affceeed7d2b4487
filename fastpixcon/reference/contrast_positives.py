"""Sums over the positives of one contrast set of several, on full [N, M] matrices."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fastpixcon.reference.contrast_sums import Pairs, batch_pairs
from fastpixcon.reference.info_nce import check_temperature


def positive_sums(
    these: Pairs, temperature: Tensor, log_sum: Tensor, denominator: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, weight and count [N]; what pulls each positive [N, M]."""
    margin = log_sum[:, None] - these.cosine / temperature.to(these.cosine)  # log(Z_i / e^s_ij)
    if denominator == "negatives":
        pull = margin.sigmoid().masked_fill(~these.positives, 0)
        loss = softplus(margin).masked_fill(~these.positives, 0).sum(dim=1)
        weight = pull.sum(dim=1)
    else:
        pull = these.positives.to(margin)
        loss = margin.masked_fill(~these.positives, 0).sum(dim=1)
        weight = torch.zeros_like(loss)
    return loss, weight, these.positives.sum(dim=1).to(torch.int32), pull


def contrast_positives(
    anchors: Tensor,
    anchor_labels: Tensor,
    contrast: Tensor | None,
    contrast_labels: Tensor | None,
    temperature: Tensor,
    log_sum: Tensor,
    column_log_sum: Tensor | None,
    denominator: str,
    fixed_shift: bool,
    is_sorted: bool,
    diagonal: int | None,
    mined: Tensor | None,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    check_temperature(temperature)
    these = batch_pairs(anchors, anchor_labels, contrast, contrast_labels, diagonal, mined, seed)
    rows = positive_sums(these, temperature, log_sum, denominator)[:3]
    if column_log_sum is None:
        nothing = log_sum.new_empty(0)
        return *rows, nothing, nothing.clone(), nothing.to(torch.int32)
    transposed = Pairs(*(x.T for x in these))
    return *rows, *positive_sums(transposed, temperature, column_log_sum, denominator)[:3]
