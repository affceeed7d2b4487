"""log of the sums of e^s over one contrast set of several: the kernel of info_nce, and a launch that adds up its slots.

Of mined pairs an anchor keeps others than its contrast row does as an anchor: no triangle, and masks in every tile.
"""

import torch
from fastpixcon.kernels.common import ASSERTIONS, cdiv, launch
from fastpixcon.kernels.info_nce import Pairs, Rows, partial_sums, prepare_both
from fastpixcon.kernels.info_nce_sums import info_nce_log_sums_kernel
from torch import Tensor


def pairs_of(contrast: Tensor | None, diagonal: int | None, mined: Tensor | None, seed: Tensor | None) -> Pairs:
    """Self contrast leaves out j = i by itself, unless it is mined."""
    if contrast is None:
        diagonal = None if mined is None else 0
    return Pairs(diagonal, None if mined is None else mined.contiguous(), seed)


def contrast_sums(
    anchors: Tensor,
    anchor_labels: Tensor,
    contrast: Tensor | None,
    contrast_labels: Tensor | None,
    temperature: Tensor,
    denominator: str,
    fixed_shift: bool,
    is_sorted: bool,
    diagonal: int | None,
    mutual: bool,
    mined: Tensor | None,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    columns = contrast.shape[0] if mutual and contrast is not None else 0
    log_sum, column_log_sum = (anchors.new_empty(n, dtype=torch.float32) for n in (anchors.shape[0], columns))
    a, c = prepare_both(anchors, anchor_labels, contrast, contrast_labels, "unit", is_sorted)
    pairs = pairs_of(contrast, diagonal, mined, seed)
    own = contrast is None and mined is None

    def sums(x: Rows, y: Rows, out: Tensor, x_anchors: bool) -> None:
        if x.n == 0:
            return
        partial = partial_sums(x, y, temperature, own, denominator == "negatives", fixed_shift, pairs, x_anchors)
        launch(
            info_nce_log_sums_kernel, (cdiv(x.n, 64),), *partial, x.labels, x.source, temperature, out, x.n,
            partial.sums.shape[0], FIXED=fixed_shift, SORTED=x.source is None, BLOCK_M=64, SLOTS=16, num_warps=4,
            **ASSERTIONS,
        )  # fmt: skip

    sums(a, c, log_sum, True)
    if columns:
        sums(c, a, column_log_sum, False)
    return log_sum, column_log_sum
