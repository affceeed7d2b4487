"""Facts of rows, and which pairs of a tile with masks they let take part.

Facts of a block of rows are a tuple: keys of the labels; numbers, where a row lies among the contrast rows as they came
(a pair of equal numbers is an anchor and itself); what mining keeps of the pairs of an anchor, a tuple; groups; weights
as a positive and as a negative. Each but the first two is None where nobody asks. In a tile facts of its rows are
[:, None], of its columns [None, :].
"""

import triton
import triton.language as tl

from fastpixcon.kernels.common import has, hash32, mix32
from fastpixcon.kernels.info_nce_blocks import left_out, load_keys

BATCH_STREAM = tl.constexpr(0x6A7C)  # draws of pairs with rows of the batch
BANK_STREAM = tl.constexpr(0x6B4E)  # and of the bank


@triton.constexpr_function
def number_of(HOW, SIDE, WHAT):
    """Which row of the facts of one set of rows, "x" or "y", this is, or the first of its rows; -1: none is."""
    rows = [word for word in ("moved", "grouped", "weighted") if f"{SIDE}_{word}" in HOW.split()]
    return rows.index(WHAT) + 1 if WHAT in rows else -1


@triton.jit
def row_of_facts(facts_ptr, n, HOW: tl.constexpr, SIDE: tl.constexpr, WHAT: tl.constexpr):
    if number_of(HOW, SIDE, WHAT) < 0:
        return None
    else:
        return facts_ptr + number_of(HOW, SIDE, WHAT) * n


@triton.jit
def set_of_rows(x_ptr, facts_ptr, n, first, terms_ptr, HOW: tl.constexpr, SIDE: tl.constexpr):
    """What belongs together, for the functions below: features [n, D], labels [n], where the rows came from if they are
    moved, how many, the number of the first, what they are as anchors, their groups [n] and weights [2, n]."""
    return (  # not from variables: None in one is no value of a tuple
        x_ptr, facts_ptr, row_of_facts(facts_ptr, n, HOW, SIDE, "moved"), n, first, terms_ptr,
        row_of_facts(facts_ptr, n, HOW, SIDE, "grouped"), row_of_facts(facts_ptr, n, HOW, SIDE, "weighted"),
    )  # fmt: skip


@triton.jit
def places_of(rows, offs):
    """Where the rows `offs` came from, int32. Kernels that store there load it themselves: torch.compile takes what is
    handed to a function that makes an address for what is written to."""
    source_ptr, n = rows[2], rows[3]
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
def load_group(rows, offs, end):
    groups_ptr = rows[6]
    if groups_ptr is None:
        return None
    else:
        return tl.load(groups_ptr + offs, mask=offs < end, other=0)


@triton.jit
def load_weight(rows, offs, end, AS_NEGATIVE: tl.constexpr):
    """Float32, whose bits lie among facts."""
    n, weights_ptr = rows[3], rows[7]
    if weights_ptr is None:
        return None
    else:
        return tl.load(weights_ptr + AS_NEGATIVE * n + offs, mask=offs < end, other=0).to(tl.float32, bitcast=True)


@triton.jit
def load_facts(rows, offs, end, HOW: tl.constexpr):
    """Of the rows `offs`, of which those from `end` on take no part; nothing is mined."""
    labels_ptr, first = rows[1], rows[4]
    number = offs
    if has(HOW, "numbered"):
        number = places_of(rows, offs) + first
    return (
        load_keys(labels_ptr, offs, end), number, None, load_group(rows, offs, end), load_weight(rows, offs, end, 0),
        load_weight(rows, offs, end, 1),
    )  # fmt: skip


@triton.jit
def as_anchors(facts, rows, offs, mining):
    """With what mining keeps of their pairs."""
    n, first = rows[3], rows[4]
    key, number, mined, group, as_positive, as_negative = facts
    if mining[0] is not None:
        mined = load_mined(mining, number - first, n, offs < n, number, BATCH_STREAM)
    return key, number, mined, group, as_positive, as_negative


@triton.jit
def as_row(x):
    if x is None:
        return None
    else:
        return x[:, None]


@triton.jit
def as_column(x):
    if x is None:
        return None
    else:
        return x[None, :]


@triton.jit
def as_rows(facts):
    key, number, mined, group, as_positive, as_negative = facts
    if mined is not None:
        draw, least, most, negative_share, positive_share = mined
        mined = (draw[:, None], least[:, None], most[:, None], negative_share[:, None], positive_share[:, None])
    return key[:, None], number[:, None], mined, as_row(group), as_row(as_positive), as_row(as_negative)


@triton.jit
def as_columns(facts):
    key, number, mined, group, as_positive, as_negative = facts
    if mined is not None:
        draw, least, most, negative_share, positive_share = mined
        mined = (draw[None, :], least[None, :], most[None, :], negative_share[None, :], positive_share[None, :])
    return key[None, :], number[None, :], mined, as_column(group), as_column(as_positive), as_column(as_negative)


@triton.jit
def without_masks(whole, first, last, mined_ptr, class_weights_ptr, HOW: tl.constexpr):
    """Whether a block of rows, whole or not, from class first to class last, meets others without masks: mining and
    groups ask for them everywhere; class weights where a row's depend on more than the column."""
    if mined_ptr is not None or has(HOW, "x_grouped"):
        return whole & False
    elif class_weights_ptr is not None:
        return whole & (first == last)
    else:
        return whole


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
def of_groups(pairs, group, other_group, SAME: tl.constexpr, OTHER: tl.constexpr, HOW: tl.constexpr):
    """Of these pairs those whose groups the word asks for, if there is one."""
    if has(HOW, SAME):
        return pairs & (group == other_group)
    elif has(HOW, OTHER):
        return pairs & (group != other_group)
    else:
        return pairs


@triton.jit
def let_by_groups(pairs, same, group, other_group, HOW: tl.constexpr):
    """Of these pairs, positives where they are the same, those that the rule of the groups lets be."""
    if group is None:
        return pairs
    else:
        positives = of_groups(pairs, group, other_group, "same_positives", "other_positives", HOW)
        negatives = of_groups(pairs, group, other_group, "same_negatives", "other_negatives", HOW)
        return tl.where(same, positives, negatives)


@triton.jit
def is_in_sum(s, anchor, other, HOW: tl.constexpr):
    """Whether e^s of a pair is in Z of its anchor."""
    same = other[0] == anchor[0]
    counts = take_part(anchor, other)
    if has(HOW, "apart"):
        counts &= same == 0
    elif has(HOW, "diagonal"):  # nobody is a negative of itself
        counts &= other[1] != anchor[1]
    counts = let_by_groups(counts, same, anchor[3], other[3], HOW)
    if anchor[2] is not None:
        counts &= is_kept(s, same, anchor, other)
    return counts


@triton.jit
def is_positive(s, anchor, other, HOW: tl.constexpr):
    positive = anchor[0] == other[0]
    if has(HOW, "diagonal"):
        positive &= anchor[1] != other[1]
    positive = of_groups(positive, anchor[3], other[3], "same_positives", "other_positives", HOW)
    if anchor[2] is not None:
        positive &= is_kept_positive(s, anchor[2], other[1])
    return positive
