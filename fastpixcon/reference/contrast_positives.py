"""Sums over the positives of one contrast set of several, on full [N, M] matrices."""

from torch import Tensor

from fastpixcon.reference.info_nce import check_rule
from fastpixcon.reference.pairs import batch_pairs, column_pairs, positive_sums
from fastpixcon.values import Pairs, Rows, Rule


def contrast_positives(
    anchors: Rows, contrast: Rows | None, rule: Rule, pairs: Pairs, log_sum: Tensor, column_log_sum: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    check_rule(rule)
    loss, weight, mass, _ = positive_sums(batch_pairs(anchors, contrast, rule, pairs), rule, log_sum)
    if column_log_sum is None or contrast is None:
        nothing = log_sum.new_empty(0)
        return loss, weight, mass, nothing, nothing.clone(), nothing.clone()
    columns = positive_sums(column_pairs(anchors, contrast, rule, pairs), rule, column_log_sum)
    return loss, weight, mass, columns.loss, columns.weight, columns.mass
