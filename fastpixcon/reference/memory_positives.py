"""Sums over the positives in a memory bank, on full [N, K * S] matrices."""

from torch import Tensor

from fastpixcon.reference.contrast_positives import positive_sums
from fastpixcon.reference.contrast_sums import accumulated, bank_pairs
from fastpixcon.reference.info_nce import check_temperature


def memory_positives(
    anchors: Tensor,
    anchor_labels: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    temperature: Tensor,
    log_sum: Tensor,
    denominator: str,
    fixed_shift: bool,
    is_sorted: bool,
    first_anchor: int,
    mined: Tensor | None,
    seed: Tensor | None,
    wants_pull: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_temperature(temperature)
    these = bank_pairs(anchors, anchor_labels, bank, bank_labels, first_anchor, mined, seed)
    loss, weight, count, pull = positive_sums(these, temperature, log_sum, denominator)
    return loss, weight, count, pull @ accumulated(bank.flatten(0, 1)) if wants_pull else loss.new_empty(0)
