"""Sums of exponentials over a memory bank, and the means they weigh, on full [N, K * S] matrices."""

import torch
from torch import Tensor

from fastpixcon.reference.contrast_sums import accumulated, bank_pairs, log_sums
from fastpixcon.reference.info_nce import check_temperature


def memory_sums(
    anchors: Tensor,
    anchor_labels: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    temperature: Tensor,
    denominator: str,
    fixed_shift: bool,
    is_sorted: bool,
    first_anchor: int,
    mined: Tensor | None,
    seed: Tensor | None,
    wants_mean: bool,
) -> tuple[Tensor, Tensor]:
    check_temperature(temperature)
    these = bank_pairs(anchors, anchor_labels, bank, bank_labels, first_anchor, mined, seed)
    log_sum = log_sums(these, temperature, denominator)
    if not wants_mean:
        return log_sum, log_sum.new_empty(0)
    in_sum = these.negatives if denominator == "negatives" else these.negatives | these.positives
    softmax = torch.exp(these.cosine / temperature.to(these.cosine) - log_sum[:, None]).masked_fill(~in_sum, 0)
    return log_sum, softmax @ accumulated(bank.flatten(0, 1))
