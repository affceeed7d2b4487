"""Sums over the positives in a memory bank, on full [N, K * S] matrices."""

from torch import Tensor

from fastpixcon.reference.info_nce import check_rule
from fastpixcon.reference.pairs import accumulated, bank_pairs, positive_sums
from fastpixcon.values import BankRows, Pairs, Rows, Rule


def memory_positives(
    anchors: Rows, bank: BankRows, rule: Rule, pairs: Pairs, log_sum: Tensor, wants_pull: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_rule(rule)
    loss, weight, mass, pull = positive_sums(bank_pairs(anchors, bank, rule, pairs), rule, log_sum)
    return loss, weight, mass, pull @ accumulated(bank.x.flatten(0, 1)) if wants_pull else loss.new_empty(0)
