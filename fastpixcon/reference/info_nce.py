"""The supervised contrastive loss from its equations, on full [N, M] matrices.

Half precision rows are taken as they are stored and computed with in float32.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fastpixcon.reference.gather_normalize import normalize, normalize_backward
from fastpixcon.values import Rows, Rule, Statistics


def taking_part(rows: Rows) -> Tensor:
    """Rows [N, D] with zeros where one is left out, which may hold anything: 0 times NaN is NaN. One that takes part
    and is not finite is NaN altogether: its logits might be infinite, and add nothing to a sum."""
    x = rows.x.where(rows.x.isfinite().all(dim=1, keepdim=True), torch.nan)
    return x.where((rows.labels != -1)[:, None], 0)


def accumulated(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def prepare(these: Rows, rows: str) -> tuple[Tensor, Tensor]:
    """Rows to compute with, float32 or float64 [N, D], and their inverse norms [N]."""
    x = taking_part(these)
    if rows != "raw":
        x = accumulated(x)
        return x, x.new_ones(len(x))
    unit, inv_norm = normalize(x)
    return accumulated(unit), accumulated(inv_norm)


TEMPERATURES = (2.0**-126, (2 - 2.0**-23) * 2.0**127)  # beyond, it or its reciprocal is no finite float32


def check_temperature(temperature: Tensor) -> None:
    least, most = TEMPERATURES
    if temperature.device.type == "cpu" and not least <= float(temperature) <= most:
        raise ValueError(f"temperature: got {float(temperature)}, want a number > 0, from 2^-126 to {most:.6g}")


def masks(anchor_labels: Tensor, contrast_labels: Tensor, itself: Tensor) -> tuple[Tensor, Tensor]:
    """Of positives and of negatives [N, M]; ``itself``, where both are the same row, is neither."""
    here = (anchor_labels != -1)[:, None] & (contrast_labels != -1) & ~itself
    same = anchor_labels[:, None] == contrast_labels
    return here & same, here & ~same


def masks_of(anchors: Rows, contrast: Rows | None) -> tuple[Tensor, Tensor]:
    """Self contrast leaves out j = i."""
    y = anchors.labels
    if contrast is None:
        return masks(y, y, torch.eye(len(y), dtype=torch.bool, device=y.device))
    return masks(y, contrast.labels, torch.zeros((), dtype=torch.bool, device=y.device))


def in_sum(positives: Tensor, negatives: Tensor, denominator: str) -> Tensor:
    """Which pairs are in Z, [N, M]."""
    return negatives if denominator == "negatives" else negatives | positives


def info_nce(anchors: Rows, contrast: Rows | None, rule: Rule, rows: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_temperature(rule.temperature)
    a, _ = prepare(anchors, rows)  # [N, D]
    c = a if contrast is None else prepare(contrast, rows)[0]  # [M, D]
    s = a @ c.T / rule.temperature.to(a)  # [N, M]
    positives, negatives = masks_of(anchors, contrast)
    num_positives = positives.sum(dim=1)  # [N]
    count = num_positives.clamp(min=1)

    log_sum = s.masked_fill(~in_sum(positives, negatives, rule.denominator), -torch.inf).logsumexp(dim=1)  # [N]
    if rule.denominator == "negatives":
        margin = log_sum[:, None] - s  # log(Z_i / e^s_ij)
        loss = softplus(margin).masked_fill(~positives, 0).sum(dim=1) / count
        weight = margin.sigmoid().masked_fill(~positives, 0).sum(dim=1) / count
    else:
        loss = log_sum - s.masked_fill(~positives, 0).sum(dim=1) / count
        weight = torch.zeros_like(log_sum)
    return loss.masked_fill(num_positives == 0, 0), log_sum, weight, num_positives.to(torch.int32)


def info_nce_backward(
    statistics: Statistics, anchors: Rows, contrast: Rows | None, rule: Rule, rows: str, output_mask: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    check_temperature(rule.temperature)
    d_loss, log_sum, weight, num_positives = statistics
    a, a_inv_norm = prepare(anchors, rows)  # [N, D]
    c, c_inv_norm = (a, a_inv_norm) if contrast is None else prepare(contrast, rows)  # [M, D]
    tau = rule.temperature.to(a)
    s = a @ c.T / tau  # [N, M]
    positives, negatives = masks_of(anchors, contrast)
    count = num_positives.clamp(min=1)
    d = (d_loss.to(a) * (num_positives > 0))[:, None]  # [N, 1]

    # d_logits = dL/ds [N, M]
    softmax = torch.exp(s - log_sum[:, None]).masked_fill(~in_sum(positives, negatives, rule.denominator), 0)
    if rule.denominator == "negatives":
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
        d_anchors.to(anchors.x.dtype) if output_mask[0] else anchors.x.new_empty(0),
        d_contrast.to(anchors.x.dtype) if wants_contrast else anchors.x.new_empty(0),
        d_temperature.to(rule.temperature.dtype),
    )
