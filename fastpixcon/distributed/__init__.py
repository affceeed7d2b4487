"""Contrast across the ranks of a process group."""

from typing import Any

import torch
from torch import Tensor

from fastpixcon.distributed.group import NO_GROUP, Group, ranks_of
from fastpixcon.distributed.loss import ranks_loss, total
from fastpixcon.distributed.ranks import ACROSS, Ranks

__all__ = ["ACROSS", "NO_GROUP", "Group", "Ranks", "gather_memory_rows", "ranks_loss", "ranks_of", "total"]


@torch._disable_dynamo  # as torch.compiler.disable, which imports Dynamo at once, for seconds
def gather_memory_rows(
    rows: tuple[Tensor, Tensor, Tensor, Tensor], process_group: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the batches of all ranks add to a memory bank, in the order of their ranks.

    Args:
        rows: pixels [B, K, P, D], pixel_labels [B, K, P], regions [B, K, D], region_labels [B, K] of
            :func:`fastpixcon.functional.memory_rows`; ranks may have different B.
        process_group: "world" or a ``torch.distributed.ProcessGroup``, of NCCL on GPUs or Gloo on CPUs.
    """
    group = process_group.group if isinstance(process_group, Ranks) else process_group
    ranks = ranks_of(group, "gather")  # their numbers of images may change from call to call
    if ranks is None:
        return rows
    B, K, P, D = rows[0].shape
    sizes = ranks.agree(B, rows[0].device, num_classes=K, pixels_per_image=P, dim=D, dtype=str(rows[0].dtype))
    pixels, pixel_labels, regions, region_labels = ranks.gather_rows(rows, sizes, "rows for the memory bank")
    return pixels, pixel_labels, regions, region_labels
