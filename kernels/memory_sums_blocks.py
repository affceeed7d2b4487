"""Tiles of a memory bank [K, S, D], read where it lies.

bank[c] are rows of class c, so a tile has one class: which of its pairs are positives depends on the anchor alone, and
a column only on whether its place is empty. Tiles are numbered class by class and cut into `splits` ranges, so that few
anchors keep a whole GPU busy; partial sums of the splits are added in their order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastpixcon.kernels.common import LEAST_ROWS, cast, cdiv, dot, multiprocessors, size

MOST_PARTIAL = 1 << 26  # bytes of partial rows


@triton.jit
def load_part(ptr, offs, here, stride, k, D: tl.constexpr, BLOCK_K: tl.constexpr):
    """Columns k.. of the rows `offs` of [.., D], zeros for rows that are not `here`: [rows, BLOCK_K]."""
    offs_k = k + tl.arange(0, BLOCK_K)
    ptrs = ptr + offs.to(tl.int64)[:, None] * stride + offs_k[None, :]
    if D % BLOCK_K == 0:
        return tl.load(ptrs, mask=here[:, None], other=0.0)
    else:
        return tl.load(ptrs, mask=here[:, None] & (offs_k < D)[None, :], other=0.0)


@triton.jit
def load_tile(ptr, s0, S, stride, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows s0.. of [S, D]: [BLOCK_N, BLOCK_D], zeros beyond."""
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    ptrs = ptr + tl.cast(s0, tl.int64) * stride + (offs_n[:, None] * stride + offs_d[None, :])
    if D == BLOCK_D:
        return tl.load(ptrs, mask=(offs_n < S - s0)[:, None], other=0.0)
    else:
        return tl.load(ptrs, mask=(offs_n < S - s0)[:, None] & (offs_d < D)[None, :], other=0.0)


@triton.jit
def load_anchors(x_ptr, offs, part, D: tl.constexpr, TILE: tl.constexpr):
    """The anchors that all tiles of a program share: where they lie, which, which take part, and [BLOCK_M, BLOCK_D] of
    them unless they come in parts."""
    if size(TILE, "BLOCK_K") < size(TILE, "BLOCK_D"):
        return x_ptr, offs, part, None
    else:
        return x_ptr, offs, part, load_part(x_ptr, offs, part, D, 0, D, size(TILE, "BLOCK_D"))


@triton.jit
def cosines(anchors, y, s0, D: tl.constexpr, HOW: tl.constexpr, TILE: tl.constexpr):
    """Dot products of anchors with the rows s0.. of y, [BLOCK_M, BLOCK_N], and these rows unless they come in parts. y:
    where the rows of a class lie, how many, their stride."""
    x_ptr, offs_i, part, x = anchors
    y_ptr, S, stride_s = y
    BLOCK_M: tl.constexpr = size(TILE, "BLOCK_M")
    BLOCK_N: tl.constexpr = size(TILE, "BLOCK_N")
    BLOCK_K: tl.constexpr = size(TILE, "BLOCK_K")
    s = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if x is not None:
        rows = load_tile(y_ptr, s0, S, stride_s, D, BLOCK_N, BLOCK_K)
        return dot(x, tl.trans(rows), s, HOW), rows
    else:
        offs_j = s0 + tl.arange(0, BLOCK_N)
        for k in tl.range(0, D, BLOCK_K, num_stages=size(TILE, "STAGES")):
            a = load_part(x_ptr, offs_i, part, D, k, D, BLOCK_K)
            rows = load_part(y_ptr, offs_j, offs_j < S, stride_s, k, D, BLOCK_K)
            s = dot(a, tl.trans(rows), s, HOW)
        return s, None


@triton.jit
def add_bank_rows(h, rows, y, s0, total, D: tl.constexpr, HOW: tl.constexpr, TILE: tl.constexpr):
    """total [BLOCK_M, BLOCK_D] + h [BLOCK_M, BLOCK_N] times the rows s0.. of y, which `cosines` has unless they came in
    parts."""
    y_ptr, S, stride_s = y
    BLOCK_N: tl.constexpr = h.shape[1]
    BLOCK_D: tl.constexpr = size(TILE, "BLOCK_D")
    if rows is not None:
        return dot(cast(h, rows.dtype), rows, total, HOW)
    elif BLOCK_D < 512 or BLOCK_N // 2 < LEAST_ROWS:
        return dot(h, load_tile(y_ptr, s0, S, stride_s, D, BLOCK_N, BLOCK_D), total, HOW)
    else:  # half of the rows at a time, in a loop that keeps both halves from the registers
        HALF: tl.constexpr = BLOCK_N // 2
        halves = h.reshape(h.shape[0], 2, HALF)
        for t in tl.range(0, 2, num_stages=size(TILE, "STAGES")):
            half = tl.sum(tl.where((tl.arange(0, 2) == t)[None, :, None], halves, 0.0), axis=1)  # [BLOCK_M, HALF]
            total = dot(half, load_tile(y_ptr, s0 + t * HALF, S, stride_s, D, HALF, BLOCK_D), total, HOW)
        return total


@triton.jit
def range_of_split(tiles):
    """Which of so many tiles are this program's."""
    split = tl.program_id(1).to(tl.int64)
    splits = tl.num_programs(1)
    return (tiles * split // splits).to(tl.int32), (tiles * (split + 1) // splits).to(tl.int32)


def split(x: Tensor, blocks: int, tiles: int, row_bytes: int) -> int:
    """How many programs share the tiles of a block of anchors x [N, D]: two a multiprocessor in all, if their partial
    rows of so many bytes are not too many."""
    most = max(1, MOST_PARTIAL // max(1, x.shape[0] * row_bytes))
    return max(1, min(cdiv(2 * multiprocessors(x), max(blocks, 1)), tiles, most))


def short_labels(labels: Tensor) -> Tensor:
    """Labels of 32 bits: a bank has no other classes."""
    if labels.dtype == torch.int64:
        labels = labels.clamp(-(1 << 31), (1 << 31) - 1).to(torch.int32)
    return labels.contiguous()


def rows_in_line(x: Tensor) -> Tensor:
    """x [.., D] with neighbouring features side by side."""
    return x if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()
