"""Sums of exponentials over a memory bank, and the means they weigh, on full [N, K * S] matrices."""

from torch import Tensor

from fastpixcon.reference.info_nce import check_rule
from fastpixcon.reference.pairs import accumulated, bank_pairs, log_sums, softmax
from fastpixcon.values import BankRows, Pairs, Rows, Rule


def memory_sums(anchors: Rows, bank: BankRows, rule: Rule, pairs: Pairs, wants_mean: bool) -> tuple[Tensor, Tensor]:
    check_rule(rule)
    these = bank_pairs(anchors, bank, rule, pairs)
    log_sum = log_sums(these, rule)
    if not wants_mean:
        return log_sum, log_sum.new_empty(0)
    return log_sum, softmax(these, rule, log_sum) @ accumulated(bank.x.flatten(0, 1))
