"""Contract of ``mining_thresholds``: which pairs of an anchor are hard (Wang et al. 2021, section 3.3).

    anchors    unit (or zero) rows [N, D], labels [N], groups [N]; weights are not looked at
    contrast   unit rows [M, D], labels [M], groups [M]; None: no such set
    diagonal   contrast row i + diagonal is anchor i itself, no pair of it; None: anchors are no contrast rows
    bank       unit rows [K, S, D] and labels [K, S]; None: no such set
    positive_groups, negative_groups   "any", "same" or "other": which pairs there are, whose thresholds are looked for
    negatives, positives   "none", "hardest", "semi-hard" or "random"
    fraction   of the pairs that "semi-hard" draws from, in (0, 1]
    keep       how many positives, how many negatives an anchor keeps
    -> mined   [4, N] float32 (float64 for float64 rows)

A negative j of anchor i is kept if cos_ij >= mined[0, i] and u_ij < mined[2, i]; a positive if cos_ij <= mined[1, i]
and u_ij < mined[3, i], where u_ij in [0, 1) is the hash of the pair, see ``reference/pairs.py``. With n
negatives of an anchor, over all sets:

    "none"       all
    "hardest"    the min(keep, n) of largest cosine
    "semi-hard"  of the h = ceil(fraction * n) of largest cosine each with probability keep / h
    "random"     each with probability keep / n

and the same with the smallest cosine for positives. The reference sorts. The kernels count cosines in ``BINS`` bins
over [-1, 1], whose outermost also have what rounding puts beyond, and take the whole bin of the last pair: their
threshold is less strict than the exact one, by one bin at most.
"""

import torch
from torch import Tensor

from fastpixcon.ops.define import define
from fastpixcon.ops.signature import Two
from fastpixcon.values import BankRows, Rows

KINDS = ("none", "hardest", "semi-hard", "random")
BINS = 1024


def fake(
    anchors: Rows,
    contrast: Rows | None,
    diagonal: int | None,
    bank: BankRows | None,
    positive_groups: str,
    negative_groups: str,
    negatives: str,
    positives: str,
    fraction: float,
    keep: Two,
) -> Tensor:
    dtype = torch.float64 if anchors.x.dtype == torch.float64 else torch.float32
    return anchors.x.new_empty(4, anchors.x.shape[0], dtype=dtype)


define("mining_thresholds", fake, "mined")
