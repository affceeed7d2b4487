"""Pixels of a feature map as unit rows, and the way back, in one launch each.

Forward reads the N selected pixels only. Backward writes N pixels into a zeroed map; equal indices are found by
comparing every index with every other, N^2 integers that stay in the cache, and their rows are added up in their order:
no atomics, no sort.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastpixcon.kernels.common import ASSERTIONS, cast, cdiv, dot, launch, normalize, power_of_two


@triton.jit
def pixel_offset(index, h, w, stride_b, stride_h, stride_w):
    """Of the pixels b*h*w + y*w + x, int64 [BLOCK]."""
    pixels = tl.cast(h, tl.int64) * w  # h may be the constant 1
    b = index // pixels
    q = index - b * pixels
    y = q // w
    return b * stride_b + y * stride_h + (q - y * w) * stride_w


@triton.jit
def gather_normalize_kernel(
    embeddings_ptr, index_ptr, rows_ptr, inv_norm_ptr, N, pixels, D, h, w, stride_b, stride_d, stride_h, stride_w,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    offs_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    index = tl.load(index_ptr + offs_n, mask=offs_n < N, other=-1)  # [BLOCK_N]
    tl.device_assert((index >= -1) & (index < pixels), "index: a value is neither -1 nor a pixel of embeddings")
    here = (index >= 0)[:, None] & (offs_d < D)[None, :]
    pixel = pixel_offset(tl.maximum(index, 0), h, w, stride_b, stride_h, stride_w)
    x = tl.load(embeddings_ptr + pixel[:, None] + offs_d.to(tl.int64)[None, :] * stride_d, mask=here, other=0.0)
    rows, inv_norm = normalize(x.to(tl.float32))
    out = rows_ptr + offs_n.to(tl.int64)[:, None] * D + offs_d[None, :]
    tl.store(out, cast(rows, rows_ptr.dtype.element_ty), mask=(offs_n < N)[:, None] & (offs_d < D)[None, :])
    tl.store(inv_norm_ptr + offs_n, inv_norm, mask=offs_n < N)


@triton.jit
def raw_gradient(d_rows_ptr, rows_ptr, inv_norm_ptr, offs_n, keep, D, stride_n, stride_d, BLOCK_D: tl.constexpr):
    """(g - (g.r) r) / |e| of the rows offs_n, [BLOCK, BLOCK_D] float32."""
    offs_d = tl.arange(0, BLOCK_D)
    here = keep[:, None] & (offs_d < D)[None, :]
    n = offs_n.to(tl.int64)
    g = tl.load(d_rows_ptr + n[:, None] * stride_n + offs_d[None, :] * stride_d, mask=here, other=0.0).to(tl.float32)
    r = tl.load(rows_ptr + n[:, None] * D + offs_d[None, :], mask=here, other=0.0).to(tl.float32)
    inv_norm = tl.load(inv_norm_ptr + offs_n, mask=keep, other=0.0)
    along = tl.sum(g * r, axis=1)
    return (g - along[:, None] * r) * inv_norm[:, None]


@triton.jit
def gather_normalize_backward_kernel(
    d_rows_ptr, rows_ptr, inv_norm_ptr, index_ptr, d_embeddings_ptr, N, D, h, w, stride_n, stride_k,
    stride_b, stride_d, stride_h, stride_w, BLOCK_N: tl.constexpr, SCAN: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    offs_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    index = tl.load(index_ptr + offs_n, mask=offs_n < N, other=-1)  # [BLOCK_N]
    first = index >= 0  # nobody before has this index: who comes first writes
    d_x = raw_gradient(d_rows_ptr, rows_ptr, inv_norm_ptr, offs_n, first, D, stride_n, stride_k, BLOCK_D)
    for start in range(0, N, SCAN):
        scan = start + tl.arange(0, SCAN)
        others = tl.load(index_ptr + scan, mask=scan < N, other=-2)
        equal = (index[:, None] == others[None, :]) & (index >= 0)[:, None]  # [BLOCK_N, SCAN]
        first &= tl.max((equal & (scan[None, :] < offs_n[:, None])).to(tl.int32), axis=1) == 0
        later = equal & (scan[None, :] > offs_n[:, None])
        if tl.max(tl.max(later.to(tl.int32), axis=1), axis=0) > 0:
            for m in range(start, start + SCAN, BLOCK_N):
                offs_m = m + tl.arange(0, BLOCK_N)
                other = tl.load(index_ptr + offs_m, mask=offs_m < N, other=-2)
                again = (index[:, None] == other[None, :]) & (index >= 0)[:, None] & (offs_m[None, :] > offs_n[:, None])
                d_m = raw_gradient(
                    d_rows_ptr, rows_ptr, inv_norm_ptr, offs_m, other >= 0, D, stride_n, stride_k, BLOCK_D
                )
                d_x = dot(again.to(tl.float32), d_m, d_x, "ieee")
    pixel = pixel_offset(tl.maximum(index, 0), h, w, stride_b, stride_h, stride_w)
    out = d_embeddings_ptr + pixel[:, None] + offs_d.to(tl.int64)[None, :] * stride_d
    tl.store(out, cast(d_x, d_embeddings_ptr.dtype.element_ty), mask=first[:, None] & (offs_d < D)[None, :])


def gather_normalize(embeddings: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    N, D = index.shape[0], embeddings.shape[1]
    h, w = embeddings.shape[2:]
    rows = embeddings.new_empty(N, D)
    inv_norm = embeddings.new_empty(N, dtype=torch.float32)
    if embeddings.numel() == 0:  # every index is padding
        return rows.zero_(), inv_norm.zero_()
    block_d = power_of_two(D)
    block_n = max(1, min(16, 4096 // block_d))
    launch(
        gather_normalize_kernel, (cdiv(N, block_n),), embeddings, index.contiguous(), rows, inv_norm, N,
        embeddings.shape[0] * h * w, D, h, w, *embeddings.stride(), BLOCK_N=block_n, BLOCK_D=block_d, num_warps=4,
        **ASSERTIONS,
    )  # fmt: skip
    return rows, inv_norm


def gather_normalize_backward(
    d_rows: Tensor, rows: Tensor, inv_norm: Tensor, index: Tensor, size: list[int], channels_last: bool
) -> Tensor:
    N, D = rows.shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    d_embeddings = torch.empty(size, dtype=rows.dtype, device=rows.device, memory_format=layout).zero_()
    if d_embeddings.numel() == 0:
        return d_embeddings
    block_d = power_of_two(D)
    launch(
        gather_normalize_backward_kernel, (cdiv(N, 16),), d_rows, rows.contiguous(), inv_norm.contiguous(),
        index.contiguous(), d_embeddings, N, D, size[2], size[3], *d_rows.stride(), *d_embeddings.stride(), BLOCK_N=16,
        SCAN=256, BLOCK_D=block_d, num_warps=4 if D <= 128 else 8,
    )  # fmt: skip
    return d_embeddings
