"""The mean of the losses, in a launch after those of the losses: one program adds them up, in the same order always."""

import triton
import triton.language as tl
from torch import Tensor

from fastpixcon.kernels.common import launch
from fastpixcon.kernels.info_nce import info_nce
from fastpixcon.values import Rows, Rule

BLOCK = 1024


@triton.jit
def info_nce_mean_kernel(
    loss_ptr, mass_ptr, weights_ptr, value_ptr, share_ptr, N, scale, MEAN: tl.constexpr, BLOCK: tl.constexpr
):
    total = tl.zeros([BLOCK], tl.float32)
    counted = tl.zeros([BLOCK], tl.float32)
    for start in range(0, N, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        counts = tl.load(mass_ptr + offs, mask=offs < N, other=0.0) > 0
        loss = tl.load(loss_ptr + offs, mask=offs < N, other=0.0)
        loss = tl.where(counts | (loss != loss), loss, 0.0)
        if weights_ptr is None:
            total += loss
            counted += tl.where(counts, 1.0, 0.0)
        else:
            w = tl.load(weights_ptr + offs, mask=counts, other=0.0)
            total += w * loss
            counted += w
    share = scale
    if MEAN:
        sum = tl.sum(counted, axis=0)
        share = scale / tl.where(sum > 0, sum, 1.0)
    tl.store(value_ptr, tl.sum(total, axis=0) * share)
    tl.store(share_ptr, share)


def mean_of(loss: Tensor, mass: Tensor, weights: Tensor | None, scale: float, mean: bool) -> tuple[Tensor, Tensor]:
    """The mean of losses [N] over those whose mass is more than 0 times scale, or their sum, [], NaN if one is; and
    what a loss of weight 1 is of it, []."""
    value, share = (loss.new_empty(()) for _ in range(2))
    launch(
        info_nce_mean_kernel, (1,), loss, mass, None if weights is None else weights.contiguous(), value, share,
        loss.shape[0], float(scale), MEAN=mean, BLOCK=BLOCK, num_warps=8,
    )  # fmt: skip
    return value, share


def info_nce_mean(
    anchors: Rows,
    contrast: Rows | None,
    rule: Rule,
    rows: str,
    anchor_weights: Tensor | None,
    scale: float,
    mean: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    loss, log_sum, weight, mass = info_nce(anchors, contrast, rule, rows)
    value, share = mean_of(loss, mass, anchor_weights, scale, mean)
    return value, share, log_sum, weight, mass
