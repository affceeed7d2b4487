"""Sums over the positives in one contrast set of several, with log Z of all of them: the kernel of info_nce."""

import torch
from torch import Tensor

from fastpixcon.kernels import launch_table
from fastpixcon.kernels.common import architecture, cdiv, launch
from fastpixcon.kernels.contrast_sums import pairs_of
from fastpixcon.kernels.info_nce import Prepared, numbering, precision, prepare_both, tile
from fastpixcon.kernels.info_nce_sums import info_nce_positives_kernel
from fastpixcon.kernels.launch_table import Launch
from fastpixcon.values import Pairs, Rows, Rule


def contrast_positives(
    anchors: Rows, contrast: Rows | None, rule: Rule, pairs: Pairs, log_sum: Tensor, column_log_sum: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    a, c = prepare_both(anchors, contrast, rule, "unit")
    pairs = pairs_of(contrast, pairs)

    def positives(x: Prepared, y: Prepared, total: Tensor | None, x_anchors: bool) -> tuple[Tensor, Tensor, Tensor]:
        N = 0 if total is None else x.n
        loss, weight = (log_sum.new_empty(N) for _ in range(2))
        count = log_sum.new_empty(N, dtype=torch.int32)
        if N == 0 or total is None:
            return loss, weight, count
        numbers, how = numbering(x, y, pairs, x_anchors)
        del how["X_SORTED"]

        def start(row: Launch) -> None:
            launch(
                info_nce_positives_kernel, (cdiv(N, row.BLOCK_M),), x.x, x.labels, y.x, y.labels, x.source,
                rule.temperature, None, None, loss, total.contiguous(), weight, count, N, y.n, 0, *numbers[1:], D=x.D,
                SELF=contrast is None and pairs.mined is None, GIVEN=True, **how,
                NEGATIVES=rule.denominator == "negatives", FIXED=rule.fixed_shift, SORTED=x.source is None,
                PRECISION=precision(x.x.dtype, rule.fixed_shift), SLOTS=16, **tile(row, block_d),
            )  # fmt: skip

        block_d = launch_table.width(x.D)
        launch_table.run("positives", architecture(x.x), x.x.element_size(), block_d, start)
        return loss, weight, count

    return *positives(a, c, log_sum, True), *positives(c, a, column_log_sum, False)
