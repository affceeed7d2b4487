"""The supervised contrastive loss from its equations, on full [N, M] matrices.

Half precision rows are taken as they are stored and computed with in float32.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fastpixcon.reference.gather_normalize import normalize, normalize_backward


def taking_part(x: Tensor, labels: Tensor | None) -> Tensor:
    """``x [N, D]`` with zeros where a row is left out, which may hold anything: 0 times NaN is NaN. One that takes part
    and is not finite is NaN altogether: its logits might be infinite, and add nothing to a sum."""
    x = x.where(x.isfinite().all(dim=1, keepdim=True), torch.nan)
    return x if labels is None else x.where((labels != -1)[:, None], 0)


def prepare(x: Tensor, labels: Tensor | None, rows: str) -> tuple[Tensor, Tensor]:
    """Rows to compute with, float32 or float64 [N, D], and their inverse norms [N]."""
    accumulate = torch.float64 if x.dtype == torch.float64 else torch.float32
    x = taking_part(x, labels)
    if rows != "raw":
        return x.to(accumulate), torch.ones(x.shape[0], dtype=accumulate, device=x.device)
    unit, inv_norm = normalize(x)
    return unit.to(accumulate), inv_norm.to(accumulate)


TEMPERATURES = (2.0**-126, (2 - 2.0**-23) * 2.0**127)  # beyond, it or its reciprocal is no finite float32


def check_temperature(temperature: Tensor) -> None:
    least, most = TEMPERATURES
    if temperature.device.type == "cpu" and not least <= float(temperature) <= most:
        raise ValueError(f"temperature: got {float(temperature)}, want a number > 0, from 2^-126 to {most:.6g}")


def pairs(anchor_labels: Tensor, contrast_labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Masks [N, M] of positives and negatives; self contrast leaves out j = i."""
    y = anchor_labels
    z = y if contrast_labels is None else contrast_labels
    both = (y != -1)[:, None] & (z != -1)
    same = y[:, None] == z
    positives = both & same
    if contrast_labels is None:
        positives &= ~torch.eye(len(y), dtype=torch.bool, device=y.device)
    return positives, both & ~same


def info_nce(
    anchors: Tensor,
    anchor_labels: Tensor,
    contrast: Tensor | None,
    contrast_labels: Tensor | None,
    temperature: Tensor,
    denominator: str,
    rows: str,
    fixed_shift: bool,
    is_sorted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_temperature(temperature)
    a, _ = prepare(anchors, anchor_labels, rows)  # [N, D]
    c = a if contrast is None else prepare(contrast, contrast_labels, rows)[0]  # [M, D]
    s = a @ c.T / temperature.to(a)  # [N, M]
    positives, negatives = pairs(anchor_labels, contrast_labels)
    num_positives = positives.sum(dim=1)  # [N]
    count = num_positives.clamp(min=1)

    in_sum = negatives if denominator == "negatives" else negatives | positives
    log_sum = s.masked_fill(~in_sum, -torch.inf).logsumexp(dim=1)  # [N]
    if denominator == "negatives":
        margin = log_sum[:, None] - s  # log(Z_i / e^s_ij)
        loss = softplus(margin).masked_fill(~positives, 0).sum(dim=1) / count
        weight = margin.sigmoid().masked_fill(~positives, 0).sum(dim=1) / count
    else:
        loss = log_sum - s.masked_fill(~positives, 0).sum(dim=1) / count
        weight = torch.zeros_like(log_sum)
    return loss.masked_fill(num_positives == 0, 0), log_sum, weight, num_positives.to(torch.int32)


def info_nce_backward(
    d_loss: Tensor,
    anchors: Tensor,
    anchor_labels: Tensor,
    contrast: Tensor | None,
    contrast_labels: Tensor | None,
    temperature: Tensor,
    log_sum: Tensor,
    weight: Tensor,
    num_positives: Tensor,
    denominator: str,
    rows: str,
    fixed_shift: bool,
    is_sorted: bool,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    check_temperature(temperature)
    a, a_inv_norm = prepare(anchors, anchor_labels, rows)  # [N, D]
    c, c_inv_norm = (a, a_inv_norm) if contrast is None else prepare(contrast, contrast_labels, rows)  # [M, D]
    tau = temperature.to(a)
    s = a @ c.T / tau  # [N, M]
    positives, negatives = pairs(anchor_labels, contrast_labels)
    count = num_positives.clamp(min=1)
    d = (d_loss.to(a) * (num_positives > 0))[:, None]  # [N, 1]

    # d_logits = dL/ds [N, M]
    in_sum = negatives if denominator == "negatives" else negatives | positives
    softmax = torch.exp(s - log_sum[:, None]).masked_fill(~in_sum, 0)
    if denominator == "negatives":
        pull = (log_sum[:, None] - s).sigmoid()
        d_logits = d * (weight[:, None] * softmax - positives * pull / count[:, None])
    else:
        d_logits = d * (softmax - positives.to(a) / count[:, None])  # bool / int would be float32

    d_anchors = d_logits @ c / tau
    d_contrast = d_logits.T @ a / tau
    d_temperature = -(d_anchors * a).sum() / tau  # sum_ij G_ij s_ij = sum_i a_i . (G C / tau)_i
    if contrast is None:
        d_anchors = d_anchors + d_contrast
    if rows == "raw":
        d_anchors = normalize_backward(d_anchors, a, a_inv_norm)
        d_contrast = normalize_backward(d_contrast, c, c_inv_norm)
    wants_contrast = output_mask[1] and contrast is not None
    return (
        d_anchors.to(anchors.dtype) if output_mask[0] else anchors.new_empty(0),
        d_contrast.to(anchors.dtype) if wants_contrast else anchors.new_empty(0),
        d_temperature.to(temperature.dtype),
    )
