"""The stateless public functions: arguments are checked here, then one operator runs per step."""

from fastpixcon.functional.anchors import SelectedAnchors, gather_normalize, select_anchors
from fastpixcon.functional.bank import memory_enqueue_, memory_rows
from fastpixcon.functional.maps import pixel_contrast
from fastpixcon.functional.rows import info_nce

__all__ = [
    "SelectedAnchors",
    "gather_normalize",
    "info_nce",
    "memory_enqueue_",
    "memory_rows",
    "pixel_contrast",
    "select_anchors",
]
