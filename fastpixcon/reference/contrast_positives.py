"""Sums over the positives of one contrast set of several, on full [N, M] matrices."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fastpixcon.reference.contrast_sums import These, batch_pairs, logits
from fastpixcon.reference.info_nce import check_temperature
from fastpixcon.values import Pairs, Rows, Rule


def positive_sums(these: These, rule: Rule, log_sum: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, weight and count [N]; what pulls each positive [N, M]."""
    margin = log_sum[:, None] - logits(these, rule)  # log(Z_i / e^s_ij)
    if rule.denominator == "negatives":
        pull = margin.sigmoid().masked_fill(~these.positives, 0)
        loss = softplus(margin).masked_fill(~these.positives, 0).sum(dim=1)
        weight = pull.sum(dim=1)
    else:
        pull = these.positives.to(margin)
        loss = margin.masked_fill(~these.positives, 0).sum(dim=1)
        weight = torch.zeros_like(loss)
    return loss, weight, these.positives.sum(dim=1).to(torch.int32), pull


def contrast_positives(
    anchors: Rows, contrast: Rows | None, rule: Rule, pairs: Pairs, log_sum: Tensor, column_log_sum: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    check_temperature(rule.temperature)
    these = batch_pairs(anchors, contrast, pairs)
    rows = positive_sums(these, rule, log_sum)[:3]
    if column_log_sum is None:
        nothing = log_sum.new_empty(0)
        return *rows, nothing, nothing.clone(), nothing.to(torch.int32)
    return *rows, *positive_sums(these.transposed(), rule, column_log_sum)[:3]
