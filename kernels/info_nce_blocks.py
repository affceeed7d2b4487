"""Blocks of rows sorted by label, those left out (label -1) last; which tiles they meet in, and a tile's products.

The rows that share a class with a block of rows are one range of blocks. Blocks inside that range, and the last one if
it is not full, go through a loop with masks, in narrower tiles; all others through one without, in which every pair is
a pair of negatives. A row left out is read as zeros, whatever it holds.

Logits are s = a.c / T in nats. Unit rows at T >= 0.025 (FIXED): |s| <= 40, so e^s neither overflows nor vanishes in
float32 and sums of e^s need no shift at all. Otherwise sums are kept relative to running maxima.
"""

import triton
import triton.language as tl

from fastpixcon.kernels.common import LEAST_ROWS, cast, dot, has, size
from fastpixcon.kernels.info_nce_halves import (
    add_rows_of_halves,
    halves_in_parts,
    load_halves,
    number_of_chunks,
    product_of_halves,
    width_of_chunk,
)

CHUNK = tl.constexpr(128)  # blocks whose labels are looked at together


@triton.jit
def key_of(label):
    """Labels, int32, in an order in which -1, left out, is the last."""
    return label.to(tl.uint32)


@triton.jit
def left_out(key):
    return key == 0xFFFFFFFF


@triton.jit
def load_keys(labels_ptr, offs, n):
    return key_of(tl.load(labels_ptr + offs, mask=offs < n, other=-1))


@triton.jit
def taking_part(keys):
    return tl.sum((left_out(keys) == 0).to(tl.int32), axis=0)


@triton.jit
def rows_of_block(labels_ptr, start, n, BLOCK: tl.constexpr):
    """Keys of the first and the last row of a block, and whether all its rows take part."""
    end = tl.minimum(start + BLOCK, n)
    last = key_of(tl.load(labels_ptr + end - 1))
    return key_of(tl.load(labels_ptr + start)), last, (start + BLOCK <= n) & (left_out(last) == 0)


@triton.jit
def blocks_between(labels_ptr, n, first, last, BLOCK: tl.constexpr):
    """Of the blocks of n sorted rows, how many lie before class `first`; begin no later than class `last`; take part
    in full; and how many rows take part."""
    before = 0
    begun = 0
    full = 0
    for start in range(0, tl.cdiv(n, BLOCK), CHUNK):
        head = (start + tl.arange(0, CHUNK)) * BLOCK
        here = head < n
        head_key = load_keys(labels_ptr, head, n)
        tail = tl.minimum(head + BLOCK, n) - 1
        tail_key = key_of(tl.load(labels_ptr + tail, mask=here, other=-1))
        before += tl.sum((here & (tail_key < first)).to(tl.int32), axis=0)
        begun += tl.sum((here & (head_key <= last)).to(tl.int32), axis=0)
        full += tl.sum((here & (head + BLOCK <= n) & (left_out(tail_key) == 0)).to(tl.int32), axis=0)
    rest = load_keys(labels_ptr, full * BLOCK + tl.arange(0, BLOCK), n)
    return before, begun, full, full * BLOCK + taking_part(rest)


@triton.jit
def plan_plain(labels_ptr, n, first, last, whole, start, BLOCK: tl.constexpr):
    """Which blocks from `start` on a block of rows meets without masks, [start, ..) and a second range: count of the
    first, where the second begins, count of both."""
    before, begun, full, rows = blocks_between(labels_ptr, n, first, last, BLOCK)
    before = tl.minimum(tl.maximum(before, start), tl.cdiv(rows, BLOCK))
    begun = tl.minimum(tl.maximum(begun, before), tl.cdiv(rows, BLOCK))
    count_1 = tl.maximum(tl.minimum(before, full) - start, 0)
    count = count_1 + tl.maximum(full - begun, 0)
    if whole == 0:  # rows left out or beyond the end: masks everywhere
        count = 0
    return count_1, begun, count


@triton.jit
def plan_masked(labels_ptr, n, first, last, whole, start, BLOCK: tl.constexpr):
    """And which with masks: where the first range begins, its count, where the second begins, count of both; and the
    rows that take part. Worked out anew after the loop without masks, which leaves no registers to remember it in."""
    before, begun, full, rows = blocks_between(labels_ptr, n, first, last, BLOCK)
    some = tl.cdiv(rows, BLOCK)
    if whole == 0:
        before = 0
        begun = 0
        full = 0
    before = tl.minimum(tl.maximum(before, start), some)
    begun = tl.minimum(tl.maximum(begun, before), some)
    full = tl.maximum(full, start)
    rest = tl.where(before > full, full, tl.maximum(full, begun))  # the last block, not full, may lie before the range
    return before, begun - before, rest, begun - before + tl.maximum(some - rest, 0), rows


@triton.jit
def pick(t, start, count_1, start_2):
    """Block number t of two ranges."""
    return tl.where(t < count_1, start + t, start_2 + t - count_1)


@triton.jit
def load_rows(ptr, start, n, D: tl.constexpr, MASKED: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows start.. of [n, D] -> [BLOCK, BLOCK_D], zeros beyond D and, if MASKED, beyond n."""
    offs_n = tl.arange(0, BLOCK)
    offs_d = tl.arange(0, BLOCK_D)
    ptrs = ptr + tl.cast(start, tl.int64) * D + (offs_n[:, None] * D + offs_d[None, :])
    if MASKED and D == BLOCK_D:
        return tl.load(ptrs, mask=(offs_n < n - start)[:, None], other=0.0)
    elif MASKED:
        return tl.load(ptrs, mask=(offs_n < n - start)[:, None] & (offs_d < D)[None, :], other=0.0)
    elif D == BLOCK_D:
        return tl.load(ptrs)
    else:
        return tl.load(ptrs, mask=(offs_d < D)[None, :], other=0.0)


@triton.jit
def products_in_parts(
    x_ptr, i0, x_end, y_ptr, j0, y_end, D: tl.constexpr, HOW: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Dot products of the rows i0.. of x with the rows j0.. of y, [BLOCK_M, BLOCK_N], in parts of BLOCK_K columns: for
    rows that do not fit the registers."""
    s = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    offs_m = tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + tl.cast(i0, tl.int64) * D + (offs_m[:, None] * D + offs_k[None, :])
    y_ptrs = y_ptr + tl.cast(j0, tl.int64) * D + (offs_n[:, None] * D + offs_k[None, :])
    for k in tl.range(0, D, BLOCK_K, num_stages=STAGES):
        x = tl.load(x_ptrs + k, mask=(offs_m < x_end - i0)[:, None] & (offs_k < D - k)[None, :], other=0.0)
        y = tl.load(y_ptrs + k, mask=(offs_n < y_end - j0)[:, None] & (offs_k < D - k)[None, :], other=0.0)
        s = dot(x, tl.trans(y), s, HOW)
    return s


@triton.jit
def load_block(x_ptr, i0, end, D: tl.constexpr, HOW: tl.constexpr, TILE: tl.constexpr):
    """The rows that all tiles of a program share: where they lie, the first, the end, and [BLOCK_M, BLOCK_D] of them,
    or halves, unless they come in parts."""
    BLOCK_M: tl.constexpr = size(TILE, "BLOCK_M")
    if size(TILE, "BLOCK_K") < size(TILE, "BLOCK_D"):
        return x_ptr, i0, end, None
    elif has(HOW, "fp16x3"):
        return x_ptr, i0, end, load_halves(x_ptr, i0, end, D, True, BLOCK_M, width_of_chunk(HOW, TILE))
    else:
        return x_ptr, i0, end, load_rows(x_ptr, i0, end, D, True, BLOCK_M, size(TILE, "BLOCK_D"))


@triton.jit
def products(
    block, y_ptr, j0, y_end, MASKED: tl.constexpr, BLOCK_N: tl.constexpr, D: tl.constexpr, HOW: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Dot products of a block of rows with the rows j0.. of y, [BLOCK_M, BLOCK_N], and these rows unless they come in
    parts."""
    x_ptr, i0, x_end, x = block
    BLOCK_M: tl.constexpr = size(TILE, "BLOCK_M")
    BLOCK_K: tl.constexpr = size(TILE, "BLOCK_K")
    STAGES: tl.constexpr = size(TILE, "STAGES")
    if x is None and has(HOW, "fp16x3"):
        return halves_in_parts(x_ptr, i0, x_end, y_ptr, j0, y_end, D, HOW, BLOCK_M, BLOCK_N, BLOCK_K, STAGES), None
    elif x is None:
        return products_in_parts(x_ptr, i0, x_end, y_ptr, j0, y_end, D, HOW, BLOCK_M, BLOCK_N, BLOCK_K, STAGES), None
    elif has(HOW, "fp16x3"):
        y = load_halves(y_ptr, j0, y_end, D, MASKED, BLOCK_N, width_of_chunk(HOW, TILE))
        return product_of_halves(x, y, BLOCK_M, BLOCK_N, number_of_chunks(D, HOW, TILE), HOW), y
    else:
        y = load_rows(y_ptr, j0, y_end, D, MASKED, BLOCK_N, BLOCK_K)
        return dot(x, tl.trans(y), tl.zeros([BLOCK_M, BLOCK_N], tl.float32), HOW), y


@triton.jit
def products_on_their_side(
    block, y_ptr, j0, y_end, MASKED: tl.constexpr, BLOCK_N: tl.constexpr, D: tl.constexpr, HOW: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """The same, [BLOCK_N, BLOCK_M]."""
    x_ptr, i0, x_end, x = block
    BLOCK_M: tl.constexpr = size(TILE, "BLOCK_M")
    BLOCK_K: tl.constexpr = size(TILE, "BLOCK_K")
    STAGES: tl.constexpr = size(TILE, "STAGES")
    if x is None and has(HOW, "fp16x3"):
        return halves_in_parts(y_ptr, j0, y_end, x_ptr, i0, x_end, D, HOW, BLOCK_N, BLOCK_M, BLOCK_K, STAGES)
    elif x is None:
        return products_in_parts(y_ptr, j0, y_end, x_ptr, i0, x_end, D, HOW, BLOCK_N, BLOCK_M, BLOCK_K, STAGES)
    elif has(HOW, "fp16x3"):
        y = load_halves(y_ptr, j0, y_end, D, MASKED, BLOCK_N, width_of_chunk(HOW, TILE))
        return product_of_halves(y, x, BLOCK_N, BLOCK_M, number_of_chunks(D, HOW, TILE), HOW)
    else:
        y = load_rows(y_ptr, j0, y_end, D, MASKED, BLOCK_N, BLOCK_K)
        return dot(y, tl.trans(x), tl.zeros([BLOCK_N, BLOCK_M], tl.float32), HOW)


@triton.jit
def begin_rows(D: tl.constexpr, HOW: tl.constexpr, TILE: tl.constexpr):
    """Zeros that `add_rows` adds to: chunks of [BLOCK_M, BLOCK_D]."""
    sums = ()
    for _ in tl.static_range(number_of_chunks(D, HOW, TILE)):
        sums += (tl.zeros([size(TILE, "BLOCK_M"), width_of_chunk(HOW, TILE)], tl.float32),)
    return sums


@triton.jit
def add_rows(
    h, y, y_ptr, j0, y_end, MASKED: tl.constexpr, D: tl.constexpr, total, HOW: tl.constexpr, TILE: tl.constexpr
):
    """total, chunks of [BLOCK_M, BLOCK_D], + h [BLOCK_M, BLOCK_N] times the rows j0.. of y: those that `products` gave,
    unless they came in parts."""
    BLOCK_N: tl.constexpr = h.shape[1]
    BLOCK_D: tl.constexpr = size(TILE, "BLOCK_D")
    if has(HOW, "fp16x3"):
        return add_rows_of_halves(h, y, y_ptr, j0, y_end, MASKED, D, total, None, HOW, TILE)
    elif y is not None:
        return (dot(cast(h, y.dtype), y, total[0], HOW),)
    elif BLOCK_D < 512 or BLOCK_N // 2 < LEAST_ROWS:
        return (dot(h, load_rows(y_ptr, j0, y_end, D, MASKED, BLOCK_N, BLOCK_D), total[0], HOW),)
    else:  # half of the rows at a time, in a loop that keeps both halves from the registers
        HALF: tl.constexpr = BLOCK_N // 2
        halves = h.reshape(h.shape[0], 2, HALF)
        sums = total[0]
        for t in tl.range(0, 2, num_stages=size(TILE, "STAGES")):
            half = tl.sum(tl.where((tl.arange(0, 2) == t)[None, :, None], halves, 0.0), axis=1)  # [BLOCK_M, HALF]
            sums = dot(half, load_rows(y_ptr, j0 + t * HALF, y_end, D, MASKED, HALF, BLOCK_D), sums, HOW)
        return (sums,)
