"""The loss of a map and what its gradient needs: the launches of three operators, without what is between operators."""

from torch import Tensor

from fastpixcon.kernels.gather_normalize import gather_normalize
from fastpixcon.kernels.info_nce_at_once import info_nce_at_once
from fastpixcon.kernels.select_anchors import select_anchors
from fastpixcon.values import Rows, Rule


def pixel_contrast(
    embeddings: Tensor,
    labels: Tensor,
    predictions: Tensor,
    seed: Tensor,
    num_classes: int,
    max_samples: int,
    max_views: int,
    min_pixels: int,
    ignore_index: int,
    rule: Rule,
    scale: float,
    learns_temperature: bool,
) -> tuple[Tensor, ...]:
    index, label, _count, segments = select_anchors(
        labels, predictions, seed, num_classes, max_samples, max_views, min_pixels, ignore_index
    )
    rows, inv_norm = gather_normalize(embeddings, index)
    value, mass, d_rows, _, d_temperature = info_nce_at_once(
        Rows(rows, label), None, rule, "unit", None, scale, True, [True, False, learns_temperature]
    )
    return value, mass, index, label, segments, rows, inv_norm, d_rows, d_temperature
