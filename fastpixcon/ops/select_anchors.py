"""Contract of ``select_anchors``: class-aware hard-anchor selection (Wang et al. 2021, section 3.3).

    labels       [B, H, W] integer; brought to [h, w] by nearest, source index floor(i*H/h)
    predictions  [B, h, w] integer, or logits [B, K, h, w] floating (argmax: lowest class on ties, NaN never wins)
    seed         [] int64
    -> index     [max_samples] int64, b*h*w + y*w + x, in order (class, image, pixel), padded with -1
       label     [max_samples] int32, padded with -1
       count     [1] int32, the anchors before the padding
       segments  [2, K] int32, of every class its segments that give anchors, and those that are left out

A segment is the pixels of one class in one image; only segments of ``min_pixels`` or more take part (as published:
``max_views + 1``). Each gives V = ``max_samples // segments`` pixels, from 1 to ``max_views``, or all if it has fewer.
Every backend selects the same pixels for the same seed: within a segment the k smallest (key, pixel) pairs
with key = ``hash(seed, pixel index)``, see ``reference/select_anchors.py``.
"""

import torch
from torch import Tensor

from fastpixcon.ops.define import define
from fastpixcon.ops.signature import Size


def fake(
    labels: Tensor,
    predictions: Tensor,
    seed: Tensor,
    num_classes: Size,
    max_samples: int,
    max_views: int,
    min_pixels: int,
    ignore_index: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        labels.new_empty(max_samples, dtype=torch.int64),
        labels.new_empty(max_samples, dtype=torch.int32),
        labels.new_empty(1, dtype=torch.int32),
        labels.new_empty(2, num_classes, dtype=torch.int32),
    )


define("select_anchors", fake, "index label count segments")
