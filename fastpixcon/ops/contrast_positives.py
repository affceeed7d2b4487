"""Contract of ``contrast_positives``: sums over the positives in one contrast set of several, see ``contrast_sums``.

    log_sum         [N] log Z_i, of all contrast sets together
    column_log_sum  [M] of the contrast rows as anchors; None unless mutual
    -> loss    [N] sum over kept positives of log(1 + Z_i e^-s_ip) ("negatives") or of log Z_i - s_ip ("all")
       weight  [N] sum of Z_i / (Z_i + e^s_ip) ("negatives"), or zeros
       count   [N] int32, the kept positives
       column_loss, column_weight, column_count   [M] of the contrast rows as anchors; [0] unless mutual

An empty sum (log_sum -inf) gives no loss and no weight, but of a positive that is NaN.
"""

import torch
from torch import Tensor

from fastpixcon.ops.define import define
from fastpixcon.values import Pairs, Rows, Rule


def fake(
    anchors: Rows, contrast: Rows | None, rule: Rule, pairs: Pairs, log_sum: Tensor, column_log_sum: Tensor | None
) -> tuple[Tensor, ...]:
    N, M = anchors.x.shape[0], 0 if column_log_sum is None else column_log_sum.shape[0]
    return tuple(
        log_sum.new_empty(n, dtype=dtype) for n in (N, M) for dtype in (log_sum.dtype, log_sum.dtype, torch.int32)
    )


define("contrast_positives", fake, "loss weight count column_loss column_weight column_count")
