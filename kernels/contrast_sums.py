"""log of the sums of e^s over one contrast set of several: the kernel of info_nce, and a launch that adds up its slots.

Of mined pairs an anchor keeps others than its contrast row does as an anchor: no triangle, and masks in every tile.
"""

import torch
from torch import Tensor

from fastpixcon.kernels.common import ASSERTIONS, cdiv, how, launch
from fastpixcon.kernels.info_nce import Prepared, Setting, partial_sums, prepare_both
from fastpixcon.kernels.info_nce_sums import info_nce_log_sums_kernel
from fastpixcon.values import Pairs, Rows, Rule


def setting_of(contrast: Rows | None, rule: Rule, pairs: Pairs) -> Setting:
    """Self contrast leaves out j = i by itself, unless it is mined."""
    if contrast is None:
        pairs = pairs._replace(diagonal=None if pairs.mined is None else 0)
    if pairs.mined is not None:
        pairs = pairs._replace(mined=pairs.mined.contiguous())
    return Setting(rule, rule.fixed_shift, pairs)


def contrast_sums(
    anchors: Rows, contrast: Rows | None, rule: Rule, pairs: Pairs, mutual: bool
) -> tuple[Tensor, Tensor]:
    columns = contrast.x.shape[0] if mutual and contrast is not None else 0
    log_sum, column_log_sum = (anchors.x.new_empty(n, dtype=torch.float32) for n in (anchors.x.shape[0], columns))
    a, c = prepare_both(anchors, contrast, rule, "unit")
    setting = setting_of(contrast, rule, pairs)

    def sums(x: Prepared, y: Prepared, out: Tensor, x_anchors: bool) -> None:
        if x.n == 0:
            return
        partial = partial_sums(x, y, setting, x_anchors)
        launch(
            info_nce_log_sums_kernel, (cdiv(x.n, 64),), partial, x.facts, rule.temperature, out, x.n, partial.shape[1],
            HOW=how(fixed=setting.fixed, x_moved=x.moved), BLOCK_M=64, num_warps=4, **ASSERTIONS,
        )  # fmt: skip

    sums(a, c, log_sum, True)
    if columns:
        sums(c, a, column_log_sum, False)
    return log_sum, column_log_sum
