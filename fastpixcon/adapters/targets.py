"""Labels for a cross-entropy that counts the pixels that the contrast counts."""

from collections.abc import Iterable

import torch
from torch import Tensor

from fastpixcon.ops import checks

__all__ = ["VOID", "targets"]

VOID = -100  # torch's default ignore_index


def targets(labels: Tensor, logits: Tensor, ignore_index: int | Iterable[int]) -> Tensor:
    """Labels of any integer dtype -> ``[B, *S]`` int64, VOID where the contrast sees none: ``ignore_index``, negative.

    Args:
        labels: ``[B, *S]``, S of one, two or three sizes.
        logits: ``[B, K, *S']``.
        ignore_index: label, or labels, that do not count.

    Raises:
        TypeError, ValueError: naming the argument; on the CPU also for a label >= K.
    """
    if not isinstance(logits, Tensor) or logits.ndim not in (3, 4, 5) or not logits.is_floating_point():
        got = f"{logits.dtype} {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"logits: got {got}, want a floating point tensor [B, K, h, w], or of one or three sizes")
    if not isinstance(labels, Tensor) or labels.dtype not in checks.INTEGERS:
        got = f"dtype {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels: got {got}, want an integer tensor [B, H, W]")
    if labels.ndim != logits.ndim - 1 or len(labels) != len(logits):
        sizes = ("N", "H, W", "D, H, W")[logits.ndim - 3]
        raise ValueError(f"labels: got shape {tuple(labels.shape)}, want [{len(logits)}, {sizes}], an image each")
    found = labels.to(torch.int64)
    void = found < 0
    for index in [ignore_index] if isinstance(ignore_index, int) else ignore_index:
        void |= found == index
    found = found.masked_fill(void, VOID)
    if found.device.type == "cpu" and not torch.compiler.is_compiling() and found.numel():
        highest, K = int(found.max()), logits.shape[1]
        if highest >= K:
            raise ValueError(f"labels: got {highest}, want less than {K}, the classes of logits, or ignore_index")
    return found
