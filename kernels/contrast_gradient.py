"""The backward over one contrast set of several: the kernels of info_nce."""

import torch
from fastpixcon.kernels.common import ASSERTIONS, cdiv, launch
from fastpixcon.kernels.contrast_sums import pairs_of
from fastpixcon.kernels.info_nce import Rows, gradient, prepare_both
from fastpixcon.kernels.info_nce_gradient import info_nce_terms_kernel
from torch import Tensor


def contrast_gradient(
    d_loss: Tensor,
    column_d_loss: Tensor | None,
    anchors: Tensor,
    anchor_labels: Tensor,
    contrast: Tensor | None,
    contrast_labels: Tensor | None,
    temperature: Tensor,
    log_sum: Tensor,
    weight: Tensor,
    count: Tensor,
    column_log_sum: Tensor | None,
    column_weight: Tensor | None,
    column_count: Tensor | None,
    denominator: str,
    fixed_shift: bool,
    is_sorted: bool,
    diagonal: int | None,
    mined: Tensor | None,
    seed: Tensor | None,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    D, own, negatives = anchors.shape[1], contrast is None, denominator == "negatives"
    a, c = prepare_both(anchors, anchor_labels, contrast, contrast_labels, "unit", is_sorted)
    pairs = pairs_of(contrast, diagonal, mined, seed)
    largest = None
    if anchors.dtype == torch.float16:
        d_losses = [x.abs().amax().float() for x in (d_loss, column_d_loss) if x is not None and x.shape[0]]
        largest = torch.stack(d_losses).amax() if d_losses else None

    def terms_of(x: Rows, d: Tensor | None, *stats: Tensor | None) -> Tensor | None:
        if d is None:
            return None
        terms = d.new_empty(3, x.n, dtype=torch.float32)
        log_z, mean, positives = (None if s is None else s.contiguous() for s in stats)
        launch(
            info_nce_terms_kernel, (cdiv(x.n, 256),), d, log_z, mean, positives, x.source, temperature, largest, terms,
            x.n, d.stride(0), NEGATIVES=negatives, FIXED=fixed_shift, SORTED=x.source is None,
            SCALED=largest is not None, BLOCK=256, **ASSERTIONS,
        )  # fmt: skip
        return terms

    def of(x: Rows, y: Rows, x_terms: Tensor | None, y_terms: Tensor | None, along: Tensor | None) -> Tensor:
        if x.n == 0 or y.n == 0:
            if along is not None:
                along.zero_()
            return x.x.new_zeros(x.n, D, dtype=torch.float32)
        how = (temperature, largest, D, negatives, fixed_shift, along, pairs, x is a)
        return gradient(x, y, x_terms, y_terms, *how, dtype=torch.float32)

    terms = terms_of(a, d_loss, log_sum, weight, count)
    column_terms = terms if own else terms_of(c, column_d_loss, column_log_sum, column_weight, column_count)
    d_anchors, d_contrast = (anchors.new_empty(0, dtype=torch.float32) for _ in range(2))
    d_temperature = torch.zeros_like(temperature)
    if output_mask[0] or output_mask[2]:
        along = anchors.new_empty(a.n, dtype=torch.float32) if output_mask[2] else None
        d_rows = of(a, c, terms, column_terms, along)
        d_anchors = d_rows if output_mask[0] else d_anchors
        if along is not None:  # sum_ij G_ij s_ij, which self contrast counts twice
            d_temperature = (along.sum() * (-0.5 if own else -1.0) / temperature).to(temperature.dtype)
    if output_mask[1] and contrast is not None:
        d_contrast = of(c, a, column_terms, terms, None)
    return d_anchors, d_contrast, d_temperature
