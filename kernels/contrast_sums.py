"""log of the sums of e^s over one contrast set of several: the kernel of info_nce, and a launch that adds up its slots.

Of mined pairs an anchor keeps others than its contrast row does as an anchor: no triangle, and masks in every tile.
"""

import torch
from torch import Tensor

from fastpixcon.kernels.common import ASSERTIONS, cdiv, how, launch
from fastpixcon.kernels.info_nce import Setting, partial_sums
from fastpixcon.kernels.info_nce_rows import Prepared, prepare_both
from fastpixcon.kernels.info_nce_sums import info_nce_log_sums_kernel
from fastpixcon.values import Pairs, Rows, Rule


def setting_of(contrast: Rows | None, rule: Rule, pairs: Pairs) -> Setting:
    """Self contrast leaves out j = i by itself, unless it is mined."""
    if contrast is None:
        pairs = pairs._replace(diagonal=None if pairs.mined is None else 0)
    if pairs.mined is not None:
        pairs = pairs._replace(mined=pairs.mined.contiguous())
    return Setting(rule, rule.fixed_shift, pairs)


def log_sums(x: Prepared, y: Prepared, setting: Setting, x_anchors: bool = True) -> Tensor:
    """[N] of the rows x among contrast rows y."""
    out = x.x.new_empty(x.n, dtype=torch.float32)
    if x.n == 0:
        return out
    partial = partial_sums(x, y, setting, x_anchors)
    launch(
        info_nce_log_sums_kernel, (cdiv(x.n, 64),), partial, x.facts, setting.rule.temperature, out, x.n,
        partial.shape[1], HOW=how(fixed=setting.fixed, x_moved=x.moved), BLOCK_M=64, num_warps=4, **ASSERTIONS,
    )  # fmt: skip
    return out


def contrast_sums(
    anchors: Rows, contrast: Rows | None, rule: Rule, pairs: Pairs, mutual: bool
) -> tuple[Tensor, Tensor]:
    a, c = prepare_both(anchors, contrast, rule, "unit")
    setting = setting_of(contrast, rule, pairs)
    log_sum = log_sums(a, c, setting)
    return log_sum, log_sums(c, a, setting, False) if mutual and contrast is not None else log_sum.new_empty(0)
