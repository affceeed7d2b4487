"""Contract of ``contrast_sums``: log of the sum of exponentials over one contrast set of several.

A loss over several contrast sets (the batch, rows of other ranks, a memory bank) is made in steps: ``contrast_sums`` or
``memory_sums`` of every set, whose logarithms add up; with the total, ``contrast_positives`` or ``memory_positives`` of
every set; and backward ``contrast_gradient`` of every set with a gradient. ``info_nce`` is all of it for one set.

    anchors    unit (or zero) rows [N, D], labels, weights as contrast rows where they are some, and groups [N]
    contrast   unit rows [M, D], labels, weights and groups [M]; None: the anchors themselves, without j = i
    rule       as in ``info_nce``
    pairs      see ``fastpixcon/values.py``; diagonal with contrast None: 0. Of mined pairs anchor i has the number
               i + diagonal in the hash (i if diagonal is None), contrast row j the number j. Not with mutual.
    mutual     contrast rows are anchors, too, with the anchors as their contrast set
    -> log_sum        [N] log of the sum over the kept negatives of u_j W[y_i, y_j] e^s_ij; "all": and over the kept
                      positives of v_p e^s_ip; -inf for an empty sum
       column_log_sum [M] of the contrast rows as anchors; [0] unless mutual
"""

import torch
from torch import Tensor

from fastpixcon.ops.define import define
from fastpixcon.values import Pairs, Rows, Rule


def fake(anchors: Rows, contrast: Rows | None, rule: Rule, pairs: Pairs, mutual: bool) -> tuple[Tensor, Tensor]:
    x, columns = anchors.x, contrast.x.shape[0] if mutual and contrast is not None else 0
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape[0], dtype=dtype), x.new_empty(columns, dtype=dtype)


define("contrast_sums", fake, "log_sum column_log_sum")
