"""Which pairs of a tile with masks are kept, where contrast rows include the anchors or pairs are mined.

A row has a number: where it lies among the contrast rows as they came. A pair of equal numbers is an anchor and itself.
"""

import triton
import triton.language as tl

from fastpixcon.kernels.common import hash32, mix32

BATCH_STREAM = tl.constexpr(0x6A7C)  # draws of pairs with rows of the batch
BANK_STREAM = tl.constexpr(0x6B4E)  # and of the bank


@triton.jit
def numbers_of(source_ptr, first, offs, n, SORTED: tl.constexpr, NUMBERED: tl.constexpr):
    """Of the rows `offs` in sorted order, int32."""
    number = offs
    if NUMBERED:
        if SORTED == 0:
            number = tl.load(source_ptr + offs, mask=offs < n, other=0).to(tl.int32)
        number += first
    return number


@triton.jit
def load_mined(mined_ptr, offs, N, here, MINED: tl.constexpr):
    """Of every anchor: the least cosine of a negative, the largest of a positive, the shares of both that it keeps."""
    least = tl.zeros_like(offs).to(tl.float32)
    most = least
    negative_share = least
    positive_share = least
    if MINED:
        least = tl.load(mined_ptr + offs, mask=here, other=0.0)
        most = tl.load(mined_ptr + N + offs, mask=here, other=0.0)
        negative_share = tl.load(mined_ptr + 2 * N + offs, mask=here, other=0.0)
        positive_share = tl.load(mined_ptr + 3 * N + offs, mask=here, other=0.0)
    return least, most, negative_share, positive_share


@triton.jit
def draw_keys(seed_ptr, number, STREAM: tl.constexpr, MINED: tl.constexpr):
    """Of anchors with these numbers."""
    if MINED:
        return hash32(tl.load(seed_ptr), number.to(tl.int64), STREAM)
    else:
        return number


@triton.jit
def is_drawn(key, number, share):
    """Whether the hash of a pair is below the share: the key of the anchor, the number of the contrast row; all three
    broadcast to each other."""
    u = mix32(key ^ number.to(tl.uint32)) >> 8
    return u.to(tl.int32).to(tl.float32) * (1.0 / 16777216.0) < share


@triton.jit
def is_kept(s, same, key, number, least, most, negative_share, positive_share):
    hard = tl.where(same, s <= most, s >= least)
    return hard & is_drawn(key, number, tl.where(same, positive_share, negative_share))
