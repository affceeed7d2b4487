"""The backward over one contrast set of several, on full [N, M] matrices."""

import torch
from torch import Tensor

from fastpixcon.reference.contrast_positives import positive_sums
from fastpixcon.reference.contrast_sums import Pairs, accumulated, batch_pairs
from fastpixcon.reference.info_nce import check_temperature, taking_part


def d_logits(
    these: Pairs, temperature: Tensor, d_loss: Tensor, log_sum: Tensor, weight: Tensor, count: Tensor, denominator: str
) -> Tensor:
    """dL/ds [N, M] of the rows as anchors."""
    d = (d_loss.to(these.cosine) * (count > 0))[:, None]
    in_sum = these.negatives if denominator == "negatives" else these.negatives | these.positives
    softmax = torch.exp(these.cosine / temperature.to(these.cosine) - log_sum[:, None]).masked_fill(~in_sum, 0)
    if denominator == "negatives":
        softmax = softmax * weight[:, None]
    pull = positive_sums(these, temperature, log_sum, denominator)[3]
    return d * (softmax - pull / count.clamp(min=1)[:, None])


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
    check_temperature(temperature)
    these = batch_pairs(anchors, anchor_labels, contrast, contrast_labels, diagonal, mined, seed)
    g = d_logits(these, temperature, d_loss, log_sum, weight, count, denominator)  # [N, M]
    if column_d_loss is not None and column_log_sum is not None:
        assert column_weight is not None
        assert column_count is not None
        columns = (column_d_loss, column_log_sum, column_weight, column_count)
        g = g + d_logits(Pairs(*(x.T for x in these)), temperature, *columns, denominator).T
    tau = temperature.to(g)
    a = accumulated(taking_part(anchors, anchor_labels))
    c = a if contrast is None else accumulated(taking_part(contrast, contrast_labels))
    d_anchors = (g + g.T) @ a / tau if contrast is None else g @ c / tau
    nothing = g.new_empty(0)
    return (
        d_anchors if output_mask[0] else nothing,
        g.T @ a / tau if output_mask[1] and contrast is not None else nothing.clone(),
        (-(g * these.cosine).sum() / tau**2).to(temperature.dtype),
    )
