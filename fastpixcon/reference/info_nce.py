"""The supervised contrastive loss from its equations, on full [N, M] matrices."""

from torch import Tensor

from fastpixcon.reference.gather_normalize import normalize, normalize_backward
from fastpixcon.reference.pairs import (
    These,
    accumulated,
    is_itself,
    log_sums,
    pairs_of,
    positive_sums,
    softmax,
    taking_part,
)
from fastpixcon.values import Rows, Rule, Statistics


def prepare(these: Rows, rows: str) -> tuple[Tensor, Tensor]:
    """Rows to compute with, float32 or float64 [N, D], and their inverse norms [N]."""
    x = taking_part(these)
    if rows != "raw":
        x = accumulated(x)
        return x, x.new_ones(len(x))
    unit, inv_norm = normalize(x)
    return accumulated(unit), accumulated(inv_norm)


TEMPERATURES = (2.0**-126, (2 - 2.0**-23) * 2.0**127)  # beyond, it or its reciprocal is no finite float32


def check_rule(rule: Rule) -> None:
    least, most = TEMPERATURES
    if rule.temperature.device.type == "cpu" and not least <= float(rule.temperature) <= most:
        raise ValueError(f"temperature: got {float(rule.temperature)}, want a number > 0, from 2^-126 to {most:.6g}")


def prepared_pairs(a: Tensor, c: Tensor, anchors: Rows, contrast: Rows | None, rule: Rule) -> These:
    """Of prepared rows [N, D] and [M, D]. Self contrast leaves out j = i."""
    itself = is_itself(len(a), len(c), 0 if contrast is None else None, a.device)
    return pairs_of(a @ c.T, anchors, anchors if contrast is None else contrast, rule, itself)


def info_nce(anchors: Rows, contrast: Rows | None, rule: Rule, rows: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_rule(rule)
    a, _ = prepare(anchors, rows)  # [N, D]
    c = a if contrast is None else prepare(contrast, rows)[0]  # [M, D]
    these = prepared_pairs(a, c, anchors, contrast, rule)
    log_sum = log_sums(these, rule)  # [N]
    loss, weight, mass, _ = positive_sums(these, rule, log_sum)
    inverse = (1 / mass).where(mass > 0, 0)
    return (loss * inverse).where(mass > 0, 0), log_sum, weight * inverse, mass


def d_logits(these: These, rule: Rule, of: Statistics) -> Tensor:
    """dL/ds [N, M] of the rows as anchors."""
    mass = of.mass.to(these.cosine)
    d = (of.d_loss.to(these.cosine).where(mass > 0, 0))[:, None]
    push = softmax(these, rule, of.log_sum)
    if rule.denominator == "negatives":
        push = push * of.weight[:, None]
    pull = positive_sums(these, rule, of.log_sum).pull
    return d * (push - pull / mass.where(mass > 0, 1)[:, None])


def info_nce_backward(
    statistics: Statistics, anchors: Rows, contrast: Rows | None, rule: Rule, rows: str, output_mask: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    check_rule(rule)
    a, a_inv_norm = prepare(anchors, rows)  # [N, D]
    c, c_inv_norm = (a, a_inv_norm) if contrast is None else prepare(contrast, rows)  # [M, D]
    tau = rule.temperature.to(a)
    d = d_logits(prepared_pairs(a, c, anchors, contrast, rule), rule, statistics)  # [N, M]
    d_anchors = d @ c / tau
    d_contrast = d.T @ a / tau
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
