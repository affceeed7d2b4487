"""Contract of ``memory_sums``: ``contrast_sums`` over a memory bank, read where it lies; and what its gradient needs.

    anchors      unit (or zero) rows [N, D] and labels [N]
    bank         unit rows [K, S, D], labels [K, S], weights as negatives [K]; of no group
    rule         as in ``info_nce``; is_sorted is of the anchors
    pairs        of mined ones anchor i has the number i + diagonal in the hash (i if diagonal is None), row s of class
                 c the number c * S + s, in the stream of the memory
    -> log_sum   [N] log sum u_j W[y_i, y_j] e^s_ij over the kept negatives; "all": and e^s over kept positives; -inf
                 for an empty sum
       mean      [N, D] float32 (float64 for float64 rows): the mean of the rows in the sum with the weights
                 that they have in it, zeros for an empty sum; [0] unless wants_mean

The bank has no gradient, so that of the anchors is made in the forward: with total log Z_i and mean weight w_i (1 for
"all") it is d_loss_i (w_i e^(log_sum_i - log Z_i) mean_i - pull_i / |P_i|) / T, ``pull`` of ``memory_positives``.
Backward needs neither the bank, which may have changed since, nor its logits anew: 4 N M D FLOP in all.
"""

import torch
from torch import Tensor

from fastpixcon.ops.define import define
from fastpixcon.values import BankRows, Pairs, Rows, Rule


def fake(anchors: Rows, bank: BankRows, rule: Rule, pairs: Pairs, wants_mean: bool) -> tuple[Tensor, Tensor]:
    x = anchors.x
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape[0], dtype=dtype), x.new_empty(x.shape if wants_mean else (0,), dtype=dtype)


define("memory_sums", fake, "log_sum mean")
