"""Contract of ``memory_rows``: what a batch adds to a memory bank (Wang et al. 2021, section 3.2).

    embeddings   [B, D, h, w], any strides
    labels       [B, H, W] integer; brought to [h, w] by nearest, source index floor(i*H/h)
    seed         [] int64
    -> pixels        [B, K, P, D] unit rows: up to ``pixels_per_image`` P random pixels of each class in each image
       pixel_labels  [B, K, P] int32, the class; -1 where there is no such pixel, or one of norm below 1e-12, whose row
                     is zeros, or one that is not finite
       regions       [B, K, D] unit rows: the mean of the unit embeddings of a class in an image, renormalised
       region_labels [B, K] int32, the class; -1 where the image has no such pixel, or where they cancel, whose row is
                     zeros, or where the mean is not finite

Of the pixels of a class in an image the P with the smallest (hash(seed, pixel), pixel), in that order, in the stream of
draws for the memory: the same ones on every backend.

The mean is of the pixels of norm 1e-12 and more, in float32, before they are rounded to the dtype of embeddings. If it
is no longer than 2^-16 it has no direction: what is left of it is the rounding of its summands. A pixel that is not
finite makes the mean NaN.
"""

import torch
from torch import Tensor

from fastpixcon.ops.define import define


def fake(
    embeddings: Tensor, labels: Tensor, seed: Tensor, num_classes: int, pixels_per_image: int, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, D = embeddings.shape[:2]
    segments = (B, num_classes)
    return (
        embeddings.new_empty(*segments, pixels_per_image, D),
        labels.new_empty(*segments, pixels_per_image, dtype=torch.int32),
        embeddings.new_empty(*segments, D),
        labels.new_empty(*segments, dtype=torch.int32),
    )


define("memory_rows", fake, "pixels pixel_labels regions region_labels")
