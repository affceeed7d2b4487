"""Tiles of a memory bank [K, S, D], read where it lies; of float32, with a fixed shift, a copy in halves of float16.

bank[c] are rows of class c, so a tile has one class: which of its pairs are positives depends on the anchor alone, and
a column only on whether its place is empty. Tiles are numbered class by class and cut into `splits` ranges, so that few
anchors keep a whole GPU busy; partial sums of the splits are added in their order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastpixcon.kernels import launch_table
from fastpixcon.kernels.common import (
    LEAST_ROWS,
    cast,
    cdiv,
    dot,
    has,
    how,
    launch,
    multiprocessors,
    precision,
    round_up,
    size,
)
from fastpixcon.kernels.info_nce_blocks import load_block, products
from fastpixcon.kernels.info_nce_halves import (
    UNIT,
    add_lifted,
    add_rows_of_halves,
    lifted,
    number_of_chunks,
    split,
    width_of_chunk,
)

MOST_PARTIAL = 1 << 26  # bytes of partial rows


@triton.jit
def prepare_bank_kernel(
    x_ptr, labels_ptr, source_ptr, rows_ptr, N, S, D, D_PAD, stride_k, stride_s, HOW: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Rows of x [N / S, S, D], sorted by a source, as float16 [N, D_PAD] or halves [N, 2, D_PAD]; zeros where the label
    is -1, NaN where a row is not finite."""
    offs_n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    here = offs_n < N
    source = offs_n
    if source_ptr is not None:
        source = tl.load(source_ptr + offs_n, mask=here, other=0)
    part = here & (tl.load(labels_ptr + source, mask=here, other=-1) != -1)
    ptrs = x_ptr + (source // S * stride_k + source % S * stride_s)[:, None] + offs_d[None, :]
    x = tl.load(ptrs, mask=part[:, None] & (offs_d < D)[None, :], other=0.0)
    if has(HOW, "fp16x3"):
        x *= UNIT
    hi, lo = split(x)
    whole = tl.sum(hi.to(tl.float32) * 0.0, axis=1) == 0  # an infinite logit may add nothing to a sum
    hi = tl.where(whole[:, None], hi, float("nan"))
    inside = here[:, None] & (offs_d < D_PAD)[None, :]
    if has(HOW, "fp16x3"):
        out = rows_ptr + offs_n[:, None] * (2 * D_PAD) + offs_d[None, :]
        tl.store(out, hi, mask=inside)
        tl.store(out + D_PAD, lo, mask=inside)
    else:
        tl.store(rows_ptr + offs_n[:, None] * D_PAD + offs_d[None, :], hi, mask=inside)


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
def load_anchors(x_ptr, offs, part, N, D: tl.constexpr, HOW: tl.constexpr, TILE: tl.constexpr):
    """The anchors that all tiles of a program share: where they lie, which, which take part, and [BLOCK_M, BLOCK_D] of
    them unless they come in parts; of halves what ``load_block`` gives."""
    if has(HOW, "fp16x3"):
        return load_block(x_ptr, tl.program_id(0) * size(TILE, "BLOCK_M"), N, D, HOW, TILE)
    elif size(TILE, "BLOCK_K") < size(TILE, "BLOCK_D"):
        return x_ptr, offs, part, None
    else:
        return x_ptr, offs, part, load_part(x_ptr, offs, part, D, 0, D, size(TILE, "BLOCK_D"))


@triton.jit
def cosines(anchors, y, s0, D: tl.constexpr, HOW: tl.constexpr, TILE: tl.constexpr):
    """Dot products of anchors with the rows s0.. of y, [BLOCK_M, BLOCK_N], and these rows unless they come in parts. y:
    where the rows of a class lie, how many, their stride."""
    y_ptr, S, stride_s = y
    BLOCK_M: tl.constexpr = size(TILE, "BLOCK_M")
    BLOCK_N: tl.constexpr = size(TILE, "BLOCK_N")
    BLOCK_K: tl.constexpr = size(TILE, "BLOCK_K")
    x_ptr, offs_i, part, x = anchors
    s = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if has(HOW, "fp16x3"):
        return products(anchors, y_ptr, s0, S, True, BLOCK_N, D, HOW, TILE)
    elif x is not None:
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
    """total, chunks of [BLOCK_M, BLOCK_D], + h >= 0 [BLOCK_M, BLOCK_N] times the rows s0.. of y, which `cosines` has
    unless they came in parts."""
    y_ptr, S, stride_s = y
    BLOCK_N: tl.constexpr = h.shape[1]
    BLOCK_D: tl.constexpr = size(TILE, "BLOCK_D")
    if has(HOW, "fp16x3"):
        h, down = lifted(h)
        return add_rows_of_halves(h, rows, y_ptr, s0, S, True, D, total, down, HOW, TILE)
    elif y_ptr.dtype.element_ty == tl.float16:
        h, down = lifted(h)
        if rows is None:
            rows = load_tile(y_ptr, s0, S, stride_s, D, BLOCK_N, BLOCK_D)
        nothing = tl.zeros([h.shape[0], BLOCK_D], tl.float32)
        return (add_lifted(total[0], dot(cast(h, tl.float16), rows, nothing, HOW), down),)
    elif rows is not None:
        return (dot(cast(h, rows.dtype), rows, total[0], HOW),)
    elif BLOCK_D < 512 or BLOCK_N // 2 < LEAST_ROWS:
        return (dot(h, load_tile(y_ptr, s0, S, stride_s, D, BLOCK_N, BLOCK_D), total[0], HOW),)
    else:  # half of the rows at a time, in a loop that keeps both halves from the registers
        HALF: tl.constexpr = BLOCK_N // 2
        halves = h.reshape(h.shape[0], 2, HALF)
        sums = total[0]
        for t in tl.range(0, 2, num_stages=size(TILE, "STAGES")):
            half = tl.sum(tl.where((tl.arange(0, 2) == t)[None, :, None], halves, 0.0), axis=1)  # [BLOCK_M, HALF]
            sums = dot(half, load_tile(y_ptr, s0 + t * HALF, S, stride_s, D, HALF, BLOCK_D), sums, HOW)
        return (sums,)


@triton.jit
def store_bank_rows(ptr, at, here, total, D: tl.constexpr, HOW: tl.constexpr, TILE: tl.constexpr):
    """What add_bank_rows made, to the rows `at` of [.., D]."""
    WIDTH: tl.constexpr = width_of_chunk(HOW, TILE)
    for c in tl.static_range(number_of_chunks(D, HOW, TILE)):
        offs_d = c * WIDTH + tl.arange(0, WIDTH)
        rows = total[c] * (1.0 / UNIT) if has(HOW, "fp16x3") else total[c]
        tl.store(ptr + at[:, None] * D + offs_d[None, :], rows, mask=here[:, None] & (offs_d < D)[None, :])


@triton.jit
def range_of_split(tiles):
    """Which of so many tiles are this program's."""
    split = tl.program_id(1).to(tl.int64)
    splits = tl.num_programs(1)
    return (tiles * split // splits).to(tl.int32), (tiles * (split + 1) // splits).to(tl.int32)


def number_of_splits(x: Tensor, blocks: int, tiles: int, row_bytes: int) -> int:
    """How many programs share the tiles of a block of anchors x [N, D]: two a multiprocessor in all, if their partial
    rows of so many bytes are not too many."""
    most = max(1, MOST_PARTIAL // max(1, x.shape[0] * row_bytes))
    return max(1, min(cdiv(2 * multiprocessors(x), max(blocks, 1)), tiles, most))


def prepare_bank(x: Tensor, labels: Tensor, fixed: bool, source: Tensor | None = None) -> tuple[Tensor, str]:
    """Unit rows [K, S, D] as their products take them, and the word for these: float32 as [K, S, 2, D_pad], if it is
    not that already, or [K, S, D_pad] float16, sorted by a source; others, and without a fixed shift, as they lie."""
    if x.dim() == 4:
        return x, "fp16x3"
    word = precision(x.dtype, fixed)
    x = rows_in_line(x)
    if word not in ("fp16x1", "fp16x3"):
        return x, word
    K, S, D = x.shape
    D_pad = round_up(D, 16)
    shape = (K, S, 2, D_pad) if word == "fp16x3" else (K, S, D_pad)
    rows = torch.empty(shape, dtype=torch.float16, device=x.device)
    block_d = launch_table.width(D)
    block_n = max(1, 8192 // block_d)
    launch(
        prepare_bank_kernel, (cdiv(K * S, block_n),), x, labels, source, rows, K * S, S, D, D_pad, x.stride(0),
        x.stride(1), HOW=how(word), BLOCK_N=block_n, BLOCK_D=block_d, num_warps=8,
    )  # fmt: skip
    return rows, word


def short_labels(labels: Tensor) -> Tensor:
    """Labels of 32 bits: a bank has no other classes."""
    if labels.dtype == torch.int64:
        labels = labels.clamp(-(1 << 31), (1 << 31) - 1).to(torch.int32)
    return labels.contiguous()


def rows_in_line(x: Tensor) -> Tensor:
    """x [.., D] with neighbouring features side by side."""
    return x if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()
