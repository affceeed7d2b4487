"""The mean of the losses."""

from torch import Tensor

from fastpixcon.reference.info_nce import info_nce
from fastpixcon.values import Rows, Rule


def info_nce_mean(
    anchors: Rows,
    contrast: Rows | None,
    rule: Rule,
    rows: str,
    anchor_weights: Tensor | None,
    scale: float,
    mean: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    loss, log_sum, weight, mass = info_nce(anchors, contrast, rule, rows)
    value, share = mean_of(loss, mass, anchor_weights, scale, mean)
    return value, share, log_sum, weight, mass


def mean_of(loss: Tensor, mass: Tensor, weights: Tensor | None, scale: float, mean: bool) -> tuple[Tensor, Tensor]:
    """The mean of losses [N] over those whose mass is more than 0 times scale, or their sum, []; and what a loss of
    weight 1 is of it, []."""
    w = loss.new_ones(()).expand_as(loss) if weights is None else weights.to(loss)
    counts = mass > 0
    counted = w.where(counts, 0).sum() if mean else loss.new_ones(())
    share = scale / counted.where(counted > 0, 1)
    return (w * loss).where(counts, 0).sum() * share, share
