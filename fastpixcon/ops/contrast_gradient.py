"""Contract of ``contrast_gradient``: the backward over one contrast set of several, see ``contrast_sums``.

statistics   of the anchors, of all sets together: [N]
columns      [M] of the contrast rows as anchors; None unless mutual
-> d_anchors      [N, D] float32 (float64 for float64 rows), of this set
   d_contrast     [M, D] the same; [0] for contrast None or where it is not wanted
   d_temperature  [] -sum G_ij s_ij / T over this set
"""

import torch
from torch import Tensor

from fastpixcon.ops.define import define
from fastpixcon.ops.signature import Mask
from fastpixcon.values import Pairs, Rows, Rule, Statistics


def fake(
    statistics: Statistics,
    columns: Statistics | None,
    anchors: Rows,
    contrast: Rows | None,
    rule: Rule,
    pairs: Pairs,
    output_mask: Mask,
) -> tuple[Tensor, Tensor, Tensor]:
    x = anchors.x
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    d_anchors = x.new_empty(x.shape if output_mask[0] else (0,), dtype=dtype)
    d_contrast = x.new_empty(contrast.x.shape if output_mask[1] and contrast is not None else (0,), dtype=dtype)
    return d_anchors, d_contrast, torch.empty_like(rule.temperature)


define("contrast_gradient", fake, "d_anchors d_contrast d_temperature")
