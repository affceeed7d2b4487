"""Sums over the positives in a memory bank, on full [N, K * S] matrices."""

from torch import Tensor

from fastpixcon.reference.contrast_positives import positive_sums
from fastpixcon.reference.contrast_sums import bank_pairs
from fastpixcon.reference.info_nce import accumulated, check_temperature
from fastpixcon.values import BankRows, Pairs, Rows, Rule


def memory_positives(
    anchors: Rows, bank: BankRows, rule: Rule, pairs: Pairs, log_sum: Tensor, wants_pull: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_temperature(rule.temperature)
    loss, weight, count, pull = positive_sums(bank_pairs(anchors, bank, pairs), rule, log_sum)
    return loss, weight, count, pull @ accumulated(bank.x.flatten(0, 1)) if wants_pull else loss.new_empty(0)
