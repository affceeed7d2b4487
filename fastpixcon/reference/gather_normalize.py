"""Pixels of a feature map as unit rows."""

import torch
from torch import Tensor

MIN_NORM = 1e-12  # below it a row has no direction: it becomes zero and gets no gradient


def normalize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``x [N, D]`` -> unit rows [N, D] in the dtype of x, inverse norms [N] float64.

    The norm is taken in float64, so neither huge nor tiny rows overflow or vanish.
    """
    norm = torch.linalg.vector_norm(x.double(), dim=1)  # [N]
    inv_norm = torch.where(norm >= MIN_NORM, 1 / norm, 0)
    return (x.double() * inv_norm[:, None]).to(x.dtype), inv_norm


def normalize_backward(d_rows: Tensor, rows: Tensor, inv_norm: Tensor) -> Tensor:
    """Gradient of :func:`normalize` in the raw rows: what is left of d_rows across its row, over |x|."""
    along = (d_rows * rows).sum(dim=1, keepdim=True)  # [N, 1]
    return (d_rows - along * rows) * inv_norm[:, None]


def gather_normalize(embeddings: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    B, D, h, w = embeddings.shape
    if index.device.type == "cpu" and index.numel() and (index.min() < -1 or index.max() >= B * h * w):
        raise ValueError(f"index: got values outside [-1, {B * h * w}), the pixels of embeddings {B, D, h, w}")
    picked = embeddings.new_zeros(index.numel(), D)
    if embeddings.numel():
        pixel = index.clamp(min=0)
        b, y, x = pixel // (h * w), pixel // w % h, pixel % w
        picked = embeddings[b, :, y, x].where(index[:, None] >= 0, 0)  # [N, D]
    rows, inv_norm = normalize(picked)
    accumulate = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
    return rows, inv_norm.to(accumulate)


def gather_normalize_backward(
    d_rows: Tensor, rows: Tensor, inv_norm: Tensor, index: Tensor, size: list[int], channels_last: bool
) -> Tensor:
    B, D, h, w = size
    accumulate = inv_norm.dtype
    d_picked = normalize_backward(d_rows.to(accumulate), rows.to(accumulate), inv_norm)  # [N, D]
    pixels = B * h * w
    d_pixels = d_picked.new_zeros(pixels + 1, D)  # the last takes the padding
    d_pixels.index_add_(0, index.where(index >= 0, pixels), d_picked)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    d_embeddings = d_pixels[:-1].view(B, h, w, D).permute(0, 3, 1, 2).to(rows.dtype)
    return d_embeddings.contiguous(memory_format=layout).clone(memory_format=layout)
