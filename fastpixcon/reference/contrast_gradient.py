"""The backward over one contrast set of several, on full [N, M] matrices."""

from torch import Tensor

from fastpixcon.reference.contrast_positives import positive_sums
from fastpixcon.reference.contrast_sums import These, batch_pairs, softmax
from fastpixcon.reference.info_nce import accumulated, check_temperature, taking_part
from fastpixcon.values import Pairs, Rows, Rule, Statistics


def d_logits(these: These, rule: Rule, of: Statistics) -> Tensor:
    """dL/ds [N, M] of the rows as anchors."""
    d = (of.d_loss.to(these.cosine) * (of.num_positives > 0))[:, None]
    push = softmax(these, rule, of.log_sum)
    if rule.denominator == "negatives":
        push = push * of.weight[:, None]
    pull = positive_sums(these, rule, of.log_sum)[3]
    return d * (push - pull / of.num_positives.clamp(min=1)[:, None])


def contrast_gradient(
    statistics: Statistics,
    columns: Statistics | None,
    anchors: Rows,
    contrast: Rows | None,
    rule: Rule,
    pairs: Pairs,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    check_temperature(rule.temperature)
    these = batch_pairs(anchors, contrast, pairs)
    g = d_logits(these, rule, statistics)  # [N, M]
    if columns is not None:
        g = g + d_logits(these.transposed(), rule, columns).T
    tau = rule.temperature.to(g)
    a = accumulated(taking_part(anchors))
    c = a if contrast is None else accumulated(taking_part(contrast))
    d_anchors = (g + g.T) @ a / tau if contrast is None else g @ c / tau
    nothing = g.new_empty(0)
    return (
        d_anchors if output_mask[0] else nothing,
        g.T @ a / tau if output_mask[1] and contrast is not None else nothing.clone(),
        (-(g * these.cosine).sum() / tau**2).to(rule.temperature.dtype),
    )
