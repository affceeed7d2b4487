"""The operators. Importing an operator's contract defines it in every backend's namespace."""

from fastpixcon.ops import gather_normalize, info_nce, select_anchors

__all__ = ["gather_normalize", "info_nce", "select_anchors"]
