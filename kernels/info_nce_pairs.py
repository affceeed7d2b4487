"""Facts of rows, and which pairs of a tile with masks they let take part.

Facts of a block of rows are a tuple: keys of the labels; numbers, where a row lies among the contrast rows as they came
(a pair of equal numbers is an anchor and itself); what mining keeps of the pairs of an anchor, a tuple or None. In a
tile facts of its rows are [:, None], of its columns [None, :].
"""

import triton
import triton.language as tl

from fastpixcon.kernels.common import has, hash32, mix32
from fastpixcon.kernels.info_nce_blocks import left_out, load_keys

BATCH_STREAM = tl.constexpr(0x6A7C)  # draws of pairs with rows of the batch
BANK_STREAM = tl.constexpr(0x6B4E)  # and of the bank


@triton.jit
def set_of_rows(x_ptr, facts_ptr, n, first, terms_ptr, HOW: tl.constexpr, MOVED: tl.constexpr):
    """What belongs together, for the functions below: features [n, D], labels [n], where the rows came from if they are
    MOVED, how many, the number of the first, and what they are as anchors."""
    if has(HOW, MOVED):
        return x_ptr, facts_ptr, facts_ptr + n, n, first, terms_ptr
    else:
        return x_ptr, facts_ptr, None, n, first, terms_ptr


@triton.jit
def places_of(rows, offs):
    """Where the rows `offs` came from, int32. Kernels that store there load it themselves: torch.compile takes what is
    handed to a function that makes an address for what is written to."""
    _, _, source_ptr, n, _, _ = rows
    if source_ptr is None:
        return offs
    else:
        return tl.load(source_ptr + offs, mask=offs < n, other=0)


@triton.jit
def load_mined(mining, place, n, here, number, STREAM: tl.constexpr):
    """Of anchors: the key of their draws, the least cosine of a negative, the largest of a positive, and the shares of
    both that they keep."""
    mined_ptr, seed_ptr = mining
    if mined_ptr is None:
        return None
    else:
        least = tl.load(mined_ptr + place, mask=here, other=0.0)
        most = tl.load(mined_ptr + n + place, mask=here, other=0.0)
        negative_share = tl.load(mined_ptr + 2 * n + place, mask=here, other=0.0)
        positive_share = tl.load(mined_ptr + 3 * n + place, mask=here, other=0.0)
        draw = hash32(tl.load(seed_ptr), number.to(tl.int64), STREAM)
        return draw, least, most, negative_share, positive_share


@triton.jit
def load_facts(rows, offs, end, HOW: tl.constexpr):
    """Of the rows `offs`, of which those from `end` on take no part; nothing is mined."""
    _, labels_ptr, _, _, first, _ = rows
    number = offs
    if has(HOW, "numbered"):
        number = places_of(rows, offs) + first
    return load_keys(labels_ptr, offs, end), number, None


@triton.jit
def as_anchors(facts, rows, offs, mining):
    """With what mining keeps of their pairs."""
    _, _, _, n, first, _ = rows
    key, number, mined = facts
    if mining[0] is not None:
        mined = load_mined(mining, number - first, n, offs < n, number, BATCH_STREAM)
    return key, number, mined


@triton.jit
def as_rows(facts):
    key, number, mined = facts
    if mined is not None:
        draw, least, most, negative_share, positive_share = mined
        mined = (draw[:, None], least[:, None], most[:, None], negative_share[:, None], positive_share[:, None])
    return key[:, None], number[:, None], mined


@triton.jit
def as_columns(facts):
    key, number, mined = facts
    if mined is not None:
        draw, least, most, negative_share, positive_share = mined
        mined = (draw[None, :], least[None, :], most[None, :], negative_share[None, :], positive_share[None, :])
    return key[None, :], number[None, :], mined


@triton.jit
def is_drawn(draw, number, share):
    """Whether the hash of a pair is below the share; number: of the contrast row. All three broadcast to each other."""
    u = mix32(draw ^ number.to(tl.uint32)) >> 8
    return u.to(tl.int32).to(tl.float32) * (1.0 / 16777216.0) < share


@triton.jit
def is_kept(s, same, anchor, other):
    """Whether mining lets an anchor keep a pair."""
    draw, least, most, negative_share, positive_share = anchor[2]
    hard = tl.where(same, s <= most, s >= least)
    return hard & is_drawn(draw, other[1], tl.where(same, positive_share, negative_share))


@triton.jit
def is_kept_positive(s, mined, number):
    draw, _, most, _, positive_share = mined
    return (s <= most) & is_drawn(draw, number, positive_share)


@triton.jit
def take_part(anchor, other):
    return (left_out(other[0]) == 0) & (left_out(anchor[0]) == 0)


@triton.jit
def is_in_sum(s, anchor, other, HOW: tl.constexpr):
    """Whether e^s of a pair is in Z of its anchor."""
    same = other[0] == anchor[0]
    counts = take_part(anchor, other)
    if has(HOW, "apart"):
        counts &= same == 0
    elif has(HOW, "diagonal"):  # nobody is a negative of itself
        counts &= other[1] != anchor[1]
    if anchor[2] is not None:
        counts &= is_kept(s, same, anchor, other)
    return counts


@triton.jit
def is_positive(s, anchor, other, HOW: tl.constexpr):
    positive = anchor[0] == other[0]
    if has(HOW, "diagonal"):
        positive &= anchor[1] != other[1]
    if anchor[2] is not None:
        positive &= is_kept_positive(s, anchor[2], other[1])
    return positive
