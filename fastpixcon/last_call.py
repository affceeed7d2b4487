"""What the last call of a loss did, read off tensors that it made anyway."""

from typing import NamedTuple

import torch
from torch import Tensor

from fastpixcon.memory import MemoryBank

__all__ = ["LastCall", "last_call"]


class LastCall(NamedTuple):
    """What a call of :class:`PixelContrastLoss` did. Tensors on its device, int64: nothing is read back for it;
    ``int()`` of one waits for the device.

    A segment is the pixels of one class in one image, on the map. With a process group all of it is of this rank.

    Attributes:
        anchors: [] that took part.
        segments: [] that gave anchors.
        left_out: [] that gave none: of fewer than ``min_pixels`` pixels, or more segments than ``max_samples``.
        classes: [] with anchors.
        without_positive: [] anchors without a positive, whose loss is not counted.
        bank_places: [] places of the memory bank in use, now; 0 without a bank.
        class_anchors: [K] anchors of each class.
        class_segments: [K] segments of each class that gave anchors.
        class_left_out: [K] segments of each class that gave none.
    """

    anchors: Tensor
    segments: Tensor
    left_out: Tensor
    classes: Tensor
    without_positive: Tensor
    bank_places: Tensor
    class_anchors: Tensor
    class_segments: Tensor
    class_left_out: Tensor


@torch.no_grad()
def last_call(segments: Tensor, labels: Tensor, num_positives: Tensor, memory: MemoryBank | None) -> LastCall:
    """Of segments [2, K], labels [N] (-1: padding) and num_positives [N] of the anchors."""
    takes_part = labels >= 0  # [N]
    K = segments.shape[1]
    class_anchors = torch.zeros(K + 1, dtype=torch.int64, device=labels.device)
    class_anchors = class_anchors.index_add_(0, labels.where(takes_part, K).long(), takes_part.long())[:K]
    class_segments, class_left_out = segments.long()
    places = labels.new_zeros((), dtype=torch.int64)
    if memory is not None:
        most = memory.written.new_tensor([[memory.pixel_size], [memory.region_size]])  # [2, 1]
        places = memory.written.minimum(most).sum()
    return LastCall(
        anchors=takes_part.sum(),
        segments=class_segments.sum(),
        left_out=class_left_out.sum(),
        classes=(class_segments > 0).sum(),
        without_positive=(takes_part & (num_positives == 0)).sum(),
        bank_places=places,
        class_anchors=class_anchors,
        class_segments=class_segments,
        class_left_out=class_left_out,
    )
