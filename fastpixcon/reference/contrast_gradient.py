"""The backward over one contrast set of several, on full [N, M] matrices."""

from torch import Tensor

from fastpixcon.reference.info_nce import check_rule, d_logits
from fastpixcon.reference.pairs import accumulated, batch_pairs, column_pairs, taking_part
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
    check_rule(rule)
    these = batch_pairs(anchors, contrast, rule, pairs)
    g = d_logits(these, rule, statistics)  # [N, M]
    if columns is not None and contrast is not None:
        g = g + d_logits(column_pairs(anchors, contrast, rule, pairs), rule, columns).T
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
