"""Sums over the positives in one contrast set of several, with log Z of all of them: the kernel of info_nce."""

from torch import Tensor

from fastpixcon.kernels.contrast_sums import setting_of
from fastpixcon.kernels.info_nce import Setting, positives
from fastpixcon.kernels.info_nce_rows import Prepared, prepare_both
from fastpixcon.values import Pairs, Rows, Rule


def sums_of(
    x: Prepared, y: Prepared, setting: Setting, log_sum: Tensor, x_anchors: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, weight and mass [N] of the rows x over their positives among y."""
    loss, weight, mass = (log_sum.new_empty(x.n) for _ in range(3))
    if x.n > 0:
        positives(x, y, setting, x_anchors, None, (loss, log_sum.contiguous(), weight, mass))
    return loss, weight, mass


def contrast_positives(
    anchors: Rows, contrast: Rows | None, rule: Rule, pairs: Pairs, log_sum: Tensor, column_log_sum: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    a, c = prepare_both(anchors, contrast, rule, "unit")
    setting = setting_of(contrast, rule, pairs)
    own = sums_of(a, c, setting, log_sum)
    if column_log_sum is None:
        nothing = (log_sum.new_empty(0) for _ in range(3))
        return (*own, *nothing)
    return *own, *sums_of(c, a, setting, column_log_sum, False)
