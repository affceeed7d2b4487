"""The operators. Importing an operator's contract defines it in every backend's namespace."""

from fastpixcon.ops import (
    contrast_gradient,
    contrast_mean,
    contrast_positives,
    contrast_sums,
    gather_normalize,
    info_nce,
    info_nce_at_once,
    info_nce_mean,
    memory_enqueue_,
    memory_positives,
    memory_rows,
    memory_sums,
    mining_thresholds,
    pixel_contrast,
    select_anchors,
)

__all__ = [
    "contrast_gradient",
    "contrast_mean",
    "contrast_positives",
    "contrast_sums",
    "gather_normalize",
    "info_nce",
    "info_nce_at_once",
    "info_nce_mean",
    "memory_enqueue_",
    "memory_positives",
    "memory_rows",
    "memory_sums",
    "mining_thresholds",
    "pixel_contrast",
    "select_anchors",
]
