"""Contract of ``memory_sums``: ``contrast_sums`` over a memory bank, read where it lies; and what its gradient needs.

    anchors      [N, D] unit (or zero) rows, anchor_labels [N] int32 or int64, -1 leaves a row out
    bank         [K, S, D] unit rows in the dtype of anchors, finite also where empty; bank[c] are rows of class c
    bank_labels  [K, S] int32: c where bank[c, s] counts, -1 where it is empty
    temperature, denominator, fixed_shift, is_sorted (of the anchors): as in ``info_nce``
    mined        [4, N], seed [] int64: which pairs the anchors keep, see ``mining_thresholds``; anchor i has the number
                 first_anchor + i in the hash, bank[c, s] the number c * S + s, in the stream of the memory
    -> log_sum   [N] log sum e^s_ij over the kept negatives ("negatives") or over all kept pairs ("all"); -inf for an
                 empty sum
       mean      [N, D] float32 (float64 for float64 rows): the mean of the rows in the sum with the weights
                 e^s_ij / sum e^s, zeros for an empty sum; [0] unless wants_mean

The bank has no gradient, so that of the anchors is made in the forward: with total log Z_i and mean weight w_i (1 for
"all") it is d_loss_i (w_i e^(log_sum_i - log Z_i) mean_i - pull_i / |P_i|) / T, ``pull`` of ``memory_positives``.
Backward needs neither the bank, which may have changed since, nor its logits anew: 4 N M D FLOP in all.
"""

import torch
from torch import Tensor

from fastpixcon.ops.define import define

SCHEMA = (
    "(Tensor anchors, Tensor anchor_labels, Tensor bank, Tensor bank_labels, Tensor temperature, str denominator,"
    " bool fixed_shift, bool is_sorted, int first_anchor, Tensor? mined, Tensor? seed, bool wants_mean)"
    " -> (Tensor log_sum, Tensor mean)"
)


def fake(
    anchors: Tensor,
    anchor_labels: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    temperature: Tensor,
    denominator: str,
    fixed_shift: bool,
    is_sorted: bool,
    first_anchor: int,
    mined: Tensor | None,
    seed: Tensor | None,
    wants_mean: bool,
) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if anchors.dtype == torch.float64 else torch.float32
    log_sum = anchors.new_empty(anchors.shape[0], dtype=dtype)
    return log_sum, anchors.new_empty(anchors.shape if wants_mean else (0,), dtype=dtype)


define("memory_sums", SCHEMA, fake)
