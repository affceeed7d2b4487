"""Contract of ``contrast_positives``: sums over the positives in one contrast set of several, see ``contrast_sums``.

    log_sum         [N] log Z_i, of all contrast sets together
    column_log_sum  [M] of the contrast rows as anchors; None unless mutual
    -> loss    [N] sum over kept positives of v_p log(1 + Z_i e^-s_ip) ("negatives") or of
               v_p (log Z_i - s_ip)
       weight  [N] sum of v_p Z_i / (Z_i + e^s_ip) ("negatives"), or zeros
       mass    [N] sum of v_p, or how many kept positives there are
       column_loss, column_weight, column_mass   [M] of the contrast rows as anchors; [0] unless mutual

An empty sum (log_sum -inf) gives no loss and no weight, but of a positive that is NaN.
"""

from torch import Tensor

from fastpixcon.ops.define import define
from fastpixcon.values import Pairs, Rows, Rule


def fake(
    anchors: Rows, contrast: Rows | None, rule: Rule, pairs: Pairs, log_sum: Tensor, column_log_sum: Tensor | None
) -> tuple[Tensor, ...]:
    N, M = anchors.x.shape[0], 0 if column_log_sum is None else column_log_sum.shape[0]
    return tuple(log_sum.new_empty(n) for n in (N, N, N, M, M, M))


define("contrast_positives", fake, "loss weight mass column_loss column_weight column_mass")
