"""Contract of ``gather_normalize``: N pixels of a feature map as unit rows.

    embeddings  [B, D, h, w], NCHW or channels_last or any strides
    index       [N] int64, b*h*w + y*w + x, or -1 for a zero row
    -> rows     [N, D], dtype of embeddings: e / |e|
       inv_norm [N] float32 (float64 for float64): 1 / |e|, or 0 for padding and where |e| < 1e-12

Backward, with r = e/|e| and g = dL/dr: dL/de = (g - (g.r) r) / |e|, added up over equal indices, in a map
that is zero elsewhere. A row without direction (|e| < 1e-12) is zero and passes no gradient. One that is not
finite has a NaN; where, and which inverse norm, is the backend's.
"""

from typing import Any

import torch
from torch import Tensor

from fastpixcon.ops.define import Autograd, define
from fastpixcon.ops.signature import Sizes


def fake(embeddings: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    n, d = index.shape[0], embeddings.shape[1]
    acc = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
    return embeddings.new_empty(n, d), embeddings.new_empty(n, dtype=acc)


def fake_backward(
    d_rows: Tensor, rows: Tensor, inv_norm: Tensor, index: Tensor, size: Sizes, channels_last: bool
) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(size, dtype=rows.dtype, device=rows.device, memory_format=layout)


def layout_of(embeddings: Tensor) -> tuple[torch.Size, bool]:
    """Size and order of the gradient: whether channels lie last."""
    is_rows = embeddings.shape[2] * embeddings.shape[3] == 1  # in either layout
    are_close = embeddings.is_contiguous(memory_format=torch.channels_last) or embeddings.stride(1) == 1  # channels
    return embeddings.shape, are_close and (is_rows or not embeddings.is_contiguous())


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    embeddings, index = inputs
    rows, inv_norm = output
    ctx.save_for_backward(rows, inv_norm, index)
    ctx.mark_non_differentiable(inv_norm)
    ctx.set_materialize_grads(False)  # or torch fills zeros for each of them
    ctx.size, ctx.channels_last = layout_of(embeddings)


def backward(ops: Any, ctx: Any, d_rows: Tensor | None, _d_inv_norm: Tensor | None) -> tuple[Tensor | None, None]:
    if d_rows is None:
        return None, None
    rows, inv_norm, index = ctx.saved_tensors
    return ops.gather_normalize_backward(d_rows, rows, inv_norm, index, ctx.size, ctx.channels_last), None


define("gather_normalize", fake, "rows inv_norm", Autograd(save, backward))
define("gather_normalize_backward", fake_backward, "d_embeddings")
