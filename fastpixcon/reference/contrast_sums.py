"""log of the sums of exponentials over one contrast set of several, on full [N, M] matrices."""

from torch import Tensor

from fastpixcon.reference.info_nce import check_rule
from fastpixcon.reference.pairs import batch_pairs, column_pairs, log_sums
from fastpixcon.values import Pairs, Rows, Rule


def contrast_sums(
    anchors: Rows, contrast: Rows | None, rule: Rule, pairs: Pairs, mutual: bool
) -> tuple[Tensor, Tensor]:
    check_rule(rule)
    log_sum = log_sums(batch_pairs(anchors, contrast, rule, pairs), rule)
    if not mutual or contrast is None:
        return log_sum, log_sum.new_empty(0)
    return log_sum, log_sums(column_pairs(anchors, contrast, rule, pairs), rule)
