"""log of the sums of e^s over one contrast set of several: the kernel of info_nce, and a launch that adds up its slots.

Of mined pairs an anchor keeps others than its contrast row does as an anchor: no triangle, and masks in every tile.
"""

import torch
from torch import Tensor

from fastpixcon.kernels.common import ASSERTIONS, cdiv, launch
from fastpixcon.kernels.info_nce import Prepared, partial_sums, prepare_both
from fastpixcon.kernels.info_nce_sums import info_nce_log_sums_kernel
from fastpixcon.values import Pairs, Rows, Rule


def pairs_of(contrast: Rows | None, pairs: Pairs) -> Pairs:
    """Self contrast leaves out j = i by itself, unless it is mined."""
    if contrast is None:
        pairs = pairs._replace(diagonal=None if pairs.mined is None else 0)
    return pairs if pairs.mined is None else pairs._replace(mined=pairs.mined.contiguous())


def contrast_sums(
    anchors: Rows, contrast: Rows | None, rule: Rule, pairs: Pairs, mutual: bool
) -> tuple[Tensor, Tensor]:
    columns = contrast.x.shape[0] if mutual and contrast is not None else 0
    log_sum, column_log_sum = (anchors.x.new_empty(n, dtype=torch.float32) for n in (anchors.x.shape[0], columns))
    a, c = prepare_both(anchors, contrast, rule, "unit")
    pairs, fixed = pairs_of(contrast, pairs), rule.fixed_shift
    own = contrast is None and pairs.mined is None

    def sums(x: Prepared, y: Prepared, out: Tensor, x_anchors: bool) -> None:
        if x.n == 0:
            return
        partial = partial_sums(x, y, rule, own, fixed, pairs, x_anchors)
        launch(
            info_nce_log_sums_kernel, (cdiv(x.n, 64),), *partial, x.labels, x.source, rule.temperature, out, x.n,
            partial.sums.shape[0], FIXED=fixed, SORTED=x.source is None, BLOCK_M=64, SLOTS=16, num_warps=4,
            **ASSERTIONS,
        )  # fmt: skip

    sums(a, c, log_sum, True)
    if columns:
        sums(c, a, column_log_sum, False)
    return log_sum, column_log_sum
