"""Contract of ``contrast_sums``: log of the sum of exponentials over one contrast set of several.

A loss over several contrast sets (the batch, rows of other ranks, a memory bank) is made in steps: ``contrast_sums`` or
``memory_sums`` of every set, whose logarithms add up; with the total, ``contrast_positives`` or ``memory_positives`` of
every set; and backward ``contrast_gradient`` of every set with a gradient. ``info_nce`` is all of it for one set.

    anchors    [N, D] unit (or zero) rows, anchor_labels [N] int32 or int64, -1 leaves a row out
    contrast   [M, D] unit rows, contrast_labels [M]; None: the anchors themselves, without j = i
    temperature, denominator, fixed_shift, is_sorted: as in ``info_nce``
    diagonal   contrast row i + diagonal is anchor i itself, no pair of it; None: anchors are not among the contrast
               rows (with contrast None: 0)
    mutual     contrast rows are anchors, too, with the anchors as their contrast set
    mined      [4, N], seed [] int64: which pairs the anchors keep, see ``mining_thresholds``; anchor i has the number
               i + diagonal in the hash (i if diagonal is None), contrast row j the number j. Not with mutual.
    -> log_sum        [N] log sum e^s_ij over the kept negatives ("negatives") or over all kept pairs ("all"); -inf for
                      an empty sum
       column_log_sum [M] of the contrast rows as anchors; [0] unless mutual
"""

import torch
from torch import Tensor

from fastpixcon.ops.define import define

SCHEMA = (
    "(Tensor anchors, Tensor anchor_labels, Tensor? contrast, Tensor? contrast_labels, Tensor temperature,"
    " str denominator, bool fixed_shift, bool is_sorted, int? diagonal, bool mutual, Tensor? mined, Tensor? seed)"
    " -> (Tensor log_sum, Tensor column_log_sum)"
)


def fake(
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
    dtype = torch.float64 if anchors.dtype == torch.float64 else torch.float32
    return anchors.new_empty(anchors.shape[0], dtype=dtype), anchors.new_empty(columns, dtype=dtype)


define("contrast_sums", SCHEMA, fake)
