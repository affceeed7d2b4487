"""The backward over one contrast set of several: the kernels of info_nce."""

import torch
from torch import Tensor

from fastpixcon.kernels.contrast_sums import setting_of
from fastpixcon.kernels.info_nce import Sides, gradient, gradient_terms, largest_d_loss, temperature_gradient
from fastpixcon.kernels.info_nce_rows import Prepared, prepare_both
from fastpixcon.values import Pairs, Rows, Rule, Statistics


def contrast_gradient(
    statistics: Statistics,
    columns: Statistics | None,
    anchors: Rows,
    contrast: Rows | None,
    rule: Rule,
    pairs: Pairs,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    x, own = anchors.x, contrast is None
    a, c = prepare_both(anchors, contrast, rule, "unit")
    setting = setting_of(contrast, rule, pairs)
    largest = largest_d_loss(a, statistics, columns)

    def of(rows: Prepared, others: Prepared, sides: Sides, along: Tensor | None) -> Tensor:
        if rows.n == 0 or others.n == 0:
            if along is not None:
                along.zero_()
            return x.new_zeros(rows.n, x.shape[1], dtype=torch.float32)
        return gradient(rows, others, sides, setting, rows is a, x.shape[1], along, torch.float32)

    terms = gradient_terms(a, statistics, setting, largest)
    sides = Sides(terms, terms if own else gradient_terms(c, columns, setting, largest), largest)
    d_anchors, d_contrast = (x.new_empty(0, dtype=torch.float32) for _ in range(2))
    d_temperature = torch.zeros_like(rule.temperature)
    if output_mask[0] or output_mask[2]:
        along = x.new_empty(a.n, dtype=torch.float32) if output_mask[2] else None
        d_rows = of(a, c, sides, along)
        d_anchors = d_rows if output_mask[0] else d_anchors
        if along is not None:
            d_temperature = temperature_gradient(along, rule, own)
    if output_mask[1] and contrast is not None:
        d_contrast = of(c, a, sides.swapped(), None)
    return d_anchors, d_contrast, d_temperature
