"""Sums over the positives in one contrast set of several, with log Z of all of them: the kernel of info_nce."""

from torch import Tensor

from fastpixcon.kernels.contrast_sums import setting_of
from fastpixcon.kernels.info_nce import Prepared, positives, prepare_both
from fastpixcon.values import Pairs, Rows, Rule


def contrast_positives(
    anchors: Rows, contrast: Rows | None, rule: Rule, pairs: Pairs, log_sum: Tensor, column_log_sum: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    a, c = prepare_both(anchors, contrast, rule, "unit")
    setting = setting_of(contrast, rule, pairs)

    def sums(x: Prepared, y: Prepared, total: Tensor | None, x_anchors: bool) -> tuple[Tensor, Tensor, Tensor]:
        N = 0 if total is None else x.n
        loss, weight, mass = (log_sum.new_empty(N) for _ in range(3))
        if N > 0 and total is not None:
            positives(x, y, setting, x_anchors, None, (loss, total.contiguous(), weight, mass))
        return loss, weight, mass

    return *sums(a, c, log_sum, True), *sums(c, a, column_log_sum, False)
