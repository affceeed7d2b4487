"""Few labels in order: each counts those that come before it, in one launch where a sort takes several."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastpixcon.kernels.common import cdiv, launch

MOST_ORDERED = 4096  # more are sorted in less time
ROWS, BLOCK = 16, 256


@triton.jit
def order_rows_kernel(
    labels_ptr, source_ptr, values_ptr, N, LOWEST: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Labels as unsigned numbers, so that -1 is last: those with the uppermost bit turned are in the same order."""
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    own = tl.load(labels_ptr + n, mask=n < N, other=0) ^ LOWEST
    before = tl.zeros([ROWS], tl.int32)
    for start in range(0, N, BLOCK):
        m = start + tl.arange(0, BLOCK)
        others = tl.load(labels_ptr + m, mask=m < N, other=0) ^ LOWEST
        equal = others[None, :] == own[:, None]
        comes = (others[None, :] < own[:, None]) | (equal & (m[None, :] < n[:, None]))  # equal ones as they lie
        before += tl.sum((comes & (m < N)[None, :]).to(tl.int32), axis=1)
    tl.store(source_ptr + before, n.to(tl.int64), mask=n < N)
    tl.store(values_ptr + before, own, mask=n < N)


def in_order(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Values [N], labels with the uppermost bit turned, in ascending order, and where they come from [N] int64."""
    lowest, n = torch.iinfo(labels.dtype).min, labels.shape[0]
    if n > MOST_ORDERED:
        values, source = torch.sort(labels ^ lowest, stable=True)
        return values, source
    values, source = labels.new_empty(n), labels.new_empty(n, dtype=torch.int64)
    launch(
        order_rows_kernel, (cdiv(n, ROWS),), labels.contiguous(), source, values, n, LOWEST=lowest, ROWS=ROWS,
        BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    return values, source
