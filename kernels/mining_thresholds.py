"""Which pairs of an anchor are hard, from histograms of its cosines in BINS bins, counted with integer atomics: their
order does not matter. Anchors come in chunks, so that the counts stay small. 2 N M D FLOP.

Bins are exact: a cosine times BINS / 2 is, and so is its floor. Positives are counted by -cosine, so that both kinds
take the bins from the top.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastpixcon.kernels import launch_table
from fastpixcon.kernels.common import architecture, cdiv, dot, has, how, launch, size
from fastpixcon.kernels.info_nce import group_words
from fastpixcon.kernels.info_nce_halves import UNIT, add_outside, add_products
from fastpixcon.kernels.info_nce_pairs import let_by_groups
from fastpixcon.kernels.launch_table import Launch, tile
from fastpixcon.kernels.memory_sums_blocks import number_of_splits, prepare_bank, range_of_split
from fastpixcon.values import BankRows, Rows

BINS = 1024  # as in the contract
MOST_ANCHORS = 8192  # of a chunk: 64 MiB of counts
NONE, HARDEST, SEMI_HARD, RANDOM = range(4)
KIND = {"none": NONE, "hardest": HARDEST, "semi-hard": SEMI_HARD, "random": RANDOM}


@triton.jit
def mining_counts_kernel(
    x_ptr, x_labels_ptr, x_groups_ptr, y_ptr, y_labels_ptr, y_groups_ptr, counts_ptr, first, end, K, S, diagonal,
    stride_k, stride_s, D: tl.constexpr, HOW: tl.constexpr, BINS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Program (block of anchors, split) adds the pairs of the anchors first..end with y [K, S, D] to counts
    [2, end - first, BINS], of negatives and of positives.

    Loads rows itself: torch.compile would take them for written to, and copy a bank, if a function that makes cosines,
    and so places of counts, got their pointers.
    """
    BLOCK_M: tl.constexpr = size(TILE, "BLOCK_M")
    BLOCK_N: tl.constexpr = size(TILE, "BLOCK_N")
    BLOCK_K: tl.constexpr = size(TILE, "BLOCK_K")
    HALVES: tl.constexpr = has(HOW, "fp16x3")
    WHOLE: tl.constexpr = size(TILE, "BLOCK_D") == BLOCK_K and not HALVES
    offs_i = first + tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    label_i = tl.load(x_labels_ptr + offs_i, mask=offs_i < end, other=-1).to(tl.int64)
    part = label_i != -1
    offs_k = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + offs_i.to(tl.int64)[:, None] * (2 * D if HALVES else D) + offs_k[None, :]
    a = label_i
    if WHOLE:
        a = tl.load(x_ptrs, mask=part[:, None] & (offs_k < D)[None, :], other=0.0)  # [BLOCK_M, BLOCK_D]
    counts_at = counts_ptr + (offs_i - first).to(tl.int64)[:, None] * BINS
    of_positives = tl.cast(end - first, tl.int64) * BINS
    class_tiles = tl.cdiv(S, BLOCK_N)
    begin, stop = range_of_split(K * class_tiles)
    for t in tl.range(begin, stop, num_stages=size(TILE, "STAGES")):
        c = t // class_tiles
        s0 = (t - c * class_tiles) * BLOCK_N
        offs_j = s0 + tl.arange(0, BLOCK_N)
        label_j = tl.load(y_labels_ptr + c.to(tl.int64) * S + offs_j, mask=offs_j < S, other=-1).to(tl.int64)
        y_ptrs = y_ptr + c.to(tl.int64) * stride_k + offs_j.to(tl.int64)[:, None] * stride_s + offs_k[None, :]
        here = (offs_j < S)[:, None]
        s = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        if WHOLE:
            s = dot(a, tl.trans(tl.load(y_ptrs, mask=here & (offs_k < D)[None, :], other=0.0)), s, HOW)
        else:
            for k in tl.range(0, D, BLOCK_K, num_stages=size(TILE, "STAGES")):
                inside = (offs_k < D - k)[None, :]
                x = tl.load(x_ptrs + k, mask=part[:, None] & inside, other=0.0)
                y = tl.load(y_ptrs + k, mask=here & inside, other=0.0)
                if HALVES:
                    x_lo = tl.load(x_ptrs + D + k, mask=part[:, None] & inside, other=0.0)
                    y_lo = tl.load(y_ptrs + D + k, mask=here & inside, other=0.0)
                    chain = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
                    s = add_outside(s, add_products(x, x_lo, tl.trans(y), tl.trans(y_lo), chain, HOW))
                else:
                    s = dot(x, tl.trans(y), s, HOW)
            if HALVES:
                s *= 1.0 / (UNIT * UNIT)
        pair = part[:, None] & (label_j != -1)[None, :]
        if diagonal is not None:
            pair &= (offs_i + diagonal)[:, None] != offs_j[None, :]
        same = label_i[:, None] == label_j[None, :]
        hardness = tl.where(same, -s, s) * (BINS // 2)
        bin = tl.minimum(tl.maximum(tl.floor(hardness), -(BINS // 2) * 1.0), BINS // 2 - 1.0).to(tl.int32) + BINS // 2
        if not has(HOW, "negatives"):
            pair &= same
        if not has(HOW, "positives"):
            pair &= same == 0
        if x_groups_ptr is not None:
            group_i = tl.load(x_groups_ptr + offs_i, mask=offs_i < end, other=0)
            group_j = tl.load(y_groups_ptr + c.to(tl.int64) * S + offs_j, mask=offs_j < S, other=0)
            pair = let_by_groups(pair, same, group_i[:, None], group_j[None, :], HOW)
        at = counts_at + bin + tl.where(same, of_positives, 0)
        tl.atomic_add(at, tl.full([BLOCK_M, BLOCK_N], 1, tl.int32), mask=pair, sem="relaxed")


@triton.jit
def threshold(counts_ptr, offs, here, KIND: tl.constexpr, fraction, keep, BINS: tl.constexpr, BLOCK: tl.constexpr):
    """The least hardness that counts, and the share of pairs which is kept, from counts [.., BINS]; ``fraction`` in
    units of 2^-32."""
    least = tl.full([BLOCK], float("-inf"), tl.float32)
    share = tl.full([BLOCK], 1.0, tl.float32)
    if KIND != 0:
        bin = tl.arange(0, BINS)
        count = tl.load(counts_ptr + offs.to(tl.int64)[:, None] * BINS + bin[None, :], mask=here[:, None], other=0)
        n = tl.sum(count, axis=1)
        let_through = n
        if KIND != 3:
            # ceil(fraction n), rounded as a product of doubles would be: not up because of the last bits of fraction
            pool = (n.to(tl.int64) * fraction + (0xFFFFFFFF - n.to(tl.int64))) >> 32
            if KIND == 1:
                pool = tl.minimum(n, keep).to(tl.int64)
            harder = n[:, None] - tl.cumsum(count, axis=1) + count  # pairs of this bin and beyond
            enough = harder >= pool[:, None]
            last = tl.max(tl.where(enough, bin[None, :], 0), axis=1)
            let_through = tl.sum(tl.where(bin[None, :] >= last[:, None], count, 0), axis=1)
            least = tl.where(last > 0, (last - BINS // 2).to(tl.float32) * (2.0 / BINS), least)
            least = tl.where(n > 0, least, float("inf"))
        if KIND != 1:
            share = tl.minimum(keep / tl.maximum(let_through, 1).to(tl.float32), 1.0)
    return least, share


@triton.jit
def mining_thresholds_kernel(
    counts_ptr, mined_ptr, first, end, N, fraction, keep_positives, keep_negatives, NEGATIVES: tl.constexpr,
    POSITIVES: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = offs < end - first
    least, negative_share = threshold(counts_ptr, offs, here, NEGATIVES, fraction, keep_negatives, BINS, BLOCK)
    positive_counts_ptr = counts_ptr + tl.cast(end - first, tl.int64) * BINS
    most, positive_share = threshold(positive_counts_ptr, offs, here, POSITIVES, fraction, keep_positives, BINS, BLOCK)
    to = mined_ptr + first + offs
    tl.store(to, least, mask=here)
    tl.store(to + N, -most, mask=here)
    tl.store(to + 2 * N, negative_share, mask=here)
    tl.store(to + 3 * N, positive_share, mask=here)


class Set(NamedTuple):
    """Contrast rows as a bank of them."""

    x: Tensor  # [K, S, D], or halves
    labels: Tensor  # [K, S]
    groups: tuple[Tensor | None, Tensor | None]  # of the anchors [N], of the rows [K * S]
    diagonal: int | None
    words: dict[str, bool]


def prepared(each: Set) -> Set:
    """With rows as their products take them, once for all chunks of anchors."""
    labels = each.labels.contiguous()
    return each._replace(x=prepare_bank(each.x, labels, True)[0], labels=labels)


def mining_thresholds(
    anchors: Rows,
    contrast: Rows | None,
    diagonal: int | None,
    bank: BankRows | None,
    positive_groups: str,
    negative_groups: str,
    negatives: str,
    positives: str,
    fraction: float,
    keep: list[int],
) -> Tensor:
    N, D = anchors.x.shape
    mined = anchors.x.new_empty(4, N, dtype=torch.float32)
    anchor_labels = anchors.labels.contiguous()
    (x,), word = prepare_bank(anchors.x.contiguous()[None], anchor_labels, True)
    width = int(x.shape[-1])
    kinds = KIND[negatives], KIND[positives]
    block_d = launch_table.width(D)
    wanted = {"negatives": kinds[0] != NONE, "positives": kinds[1] != NONE}
    sets: list[Set] = []
    if contrast is not None:
        words = group_words(positive_groups, negative_groups)
        groups = (None, None)
        if words:
            if anchors.groups is None or contrast.groups is None:
                raise ValueError("groups: got None, want [N] int32, which the rule looks at")
            groups = anchors.groups.contiguous(), contrast.groups.contiguous()
        sets.append(Set(contrast.x[None], contrast.labels[None], groups, diagonal, words | wanted))  # of one class
    if bank is not None:  # of no group
        words = {
            "negatives": wanted["negatives"] and negative_groups != "same",
            "positives": wanted["positives"] and positive_groups != "same",
        }
        sets.append(Set(bank.x, bank.labels, (None, None), None, words))
    sets = [prepared(each) for each in sets if each.words["negatives"] or each.words["positives"]]

    def count(counts: Tensor, first: int, end: int) -> None:
        counts.zero_()
        for each in sets:

            def start(row: Launch, each: Set = each) -> None:
                y, (x_groups, y_groups) = each.x, each.groups
                blocks = cdiv(end - first, row.BLOCK_M)
                splits = number_of_splits(x, blocks, y.shape[0] * cdiv(y.shape[1], row.BLOCK_N), 0)
                launch(
                    mining_counts_kernel, (blocks, splits), x, anchor_labels, x_groups, y, each.labels, y_groups,
                    counts, first, end, y.shape[0], y.shape[1], each.diagonal, y.stride(0), y.stride(1), D=width,
                    HOW=how(word, **each.words), BINS=BINS, **tile(row, block_d),
                )  # fmt: skip

            launch_table.run("mining_counts", architecture(x), launch_table.kind(x.dtype, word), block_d, start)

    for first in range(0, N, MOST_ANCHORS):
        end = min(first + MOST_ANCHORS, N)
        counts = anchor_labels.new_empty(2, end - first, BINS, dtype=torch.int32)
        if any(kinds):
            count(counts, first, end)
        launch(
            mining_thresholds_kernel, (cdiv(end - first, 4),), counts, mined, first, end, N, round(fraction * 2**32),
            keep[0], keep[1], NEGATIVES=kinds[0], POSITIVES=kinds[1], BINS=BINS, BLOCK=4, num_warps=4,
        )  # fmt: skip
    return mined
