"""Sums over the positives in a memory bank, and what pulls an anchor: a sweep of the tiles of the classes of a block of
anchors only, and a launch that adds up the splits. Anchors are visited in the order of their labels."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastpixcon.kernels import launch_table
from fastpixcon.kernels.common import (
    architecture,
    cdiv,
    has,
    how,
    launch,
    rounded_product,
    size,
    softplus_sigmoid,
)
from fastpixcon.kernels.info_nce_blocks import begin_rows
from fastpixcon.kernels.info_nce_pairs import BANK_STREAM, is_kept_positive, load_mined
from fastpixcon.kernels.info_nce_rows import order
from fastpixcon.kernels.launch_table import Launch, tile
from fastpixcon.kernels.memory_sums_blocks import (
    add_bank_rows,
    cosines,
    load_anchors,
    number_of_splits,
    prepare_bank,
    range_of_split,
    short_labels,
    store_bank_rows,
)
from fastpixcon.values import BankRows, Pairs, Rows, Rule


@triton.jit
def memory_positives_kernel(
    x_ptr, x_labels_ptr, source_ptr, bank_ptr, bank_labels_ptr, temperature_ptr, log_sum_ptr, mined_ptr, seed_ptr,
    sums_ptr, counts_ptr, pulls_ptr, N, K, S, first_anchor, stride_k, stride_s, D: tl.constexpr, HOW: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Program (block of anchors, split): of each anchor, in sorted order, sums [2, splits, N] of losses and of weights,
    counts [splits, N] and pulls [splits, N, D]."""
    BLOCK_M: tl.constexpr = size(TILE, "BLOCK_M")
    BLOCK_N: tl.constexpr = size(TILE, "BLOCK_N")
    place = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    here = place < N
    offs_i = place
    if source_ptr is not None:
        offs_i = tl.load(source_ptr + place, mask=here, other=0).to(tl.int32)
    label_i = tl.load(x_labels_ptr + offs_i, mask=here, other=-1)  # [BLOCK_M]
    part = (label_i >= 0) & (label_i < K)
    prepared: tl.constexpr = has(HOW, "fp16x1") or has(HOW, "fp16x3")  # anchors lie in sorted order
    anchors = load_anchors(x_ptr, place if prepared else offs_i, part, N, D, HOW, TILE)
    scale = 1.0 / tl.load(temperature_ptr)
    log_sum = tl.load(log_sum_ptr + offs_i, mask=part, other=float("-inf"))
    number_i = tl.cast(first_anchor, tl.int64) + offs_i
    mined = load_mined((mined_ptr, seed_ptr), offs_i, N, here, number_i, BANK_STREAM)
    if mined is not None:
        draw, least, most, negative_share, positive_share = mined
        mined = (draw[:, None], least, most[:, None], negative_share, positive_share[:, None])
    first = tl.min(tl.where(part, label_i, K), axis=0)
    last = tl.max(tl.where(part, label_i, -1), axis=0)
    class_tiles = tl.cdiv(S, BLOCK_N)
    begin, end = range_of_split(tl.maximum(last + 1 - first, 0) * class_tiles)
    loss = tl.zeros([BLOCK_M], tl.float32)
    weight = tl.zeros([BLOCK_M], tl.float32)
    count = tl.zeros([BLOCK_M], tl.int32)
    pull = begin_rows(D, HOW, TILE) if pulls_ptr is not None else (loss,)
    for t in tl.range(begin, end, num_stages=size(TILE, "STAGES")):
        c = first + t // class_tiles
        s0 = t % class_tiles * BLOCK_N
        offs_j = s0 + tl.arange(0, BLOCK_N)
        filled = tl.load(bank_labels_ptr + c.to(tl.int64) * S + offs_j, mask=offs_j < S, other=-1) != -1
        y = (bank_ptr + c.to(tl.int64) * stride_k, S, stride_s)
        s, rows = cosines(anchors, y, s0, D, HOW, TILE)
        positive = (label_i == c)[:, None] & filled[None, :]
        if mined is not None:
            positive &= is_kept_positive(s, mined, (c * S + offs_j)[None, :])
        margin = log_sum[:, None] - rounded_product(s, scale)
        if has(HOW, "negatives"):
            softplus, sigmoid = softplus_sigmoid(margin)
            h = tl.where(positive, sigmoid, 0.0)
            loss += tl.sum(tl.where(positive, softplus, 0.0), axis=1)
            weight += tl.sum(h, axis=1)
        else:
            if has(HOW, "decoupled"):  # of an empty sum nothing, but of a positive that is NaN
                empty = (log_sum == float("-inf"))[:, None]
                margin = tl.where(empty, s * 0.0, margin)
                h = (positive & (empty == 0)).to(tl.float32)
            else:
                h = positive.to(tl.float32)
            loss += tl.sum(tl.where(positive, margin, 0.0), axis=1)
        count += tl.sum(positive.to(tl.int32), axis=1)
        if pulls_ptr is not None:
            pull = add_bank_rows(h, rows, y, s0, pull, D, HOW, TILE)
    slot = tl.program_id(1).to(tl.int64) * N + place
    tl.store(sums_ptr + slot, loss, mask=here)
    tl.store(sums_ptr + tl.num_programs(1).to(tl.int64) * N + slot, weight, mask=here)
    tl.store(counts_ptr + slot, count, mask=here)
    if pulls_ptr is not None:
        store_bank_rows(pulls_ptr, slot, here, pull, D, HOW, TILE)


@triton.jit
def memory_pulls_kernel(
    sums_ptr, counts_ptr, pulls_ptr, source_ptr, loss_ptr, weight_ptr, mass_ptr, pull_ptr, N, splits, D_OUT,
    D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The sums of all splits, to where the anchors came from; pulls [N, D_OUT]."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    offs_d = tl.arange(0, BLOCK_D)
    here = offs < N
    all_here = here[:, None] & (offs_d < D)[None, :]
    weights_ptr = sums_ptr + tl.cast(splits, tl.int64) * N
    loss = tl.zeros([BLOCK], tl.float32)
    weight = tl.zeros([BLOCK], tl.float32)
    count = tl.zeros([BLOCK], tl.int32)
    pull = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for number in range(0, splits):
        slot = tl.cast(number, tl.int64) * N + offs
        loss += tl.load(sums_ptr + slot, mask=here, other=0.0)
        weight += tl.load(weights_ptr + slot, mask=here, other=0.0)
        count += tl.load(counts_ptr + slot, mask=here, other=0)
        if pulls_ptr is not None:
            pull += tl.load(pulls_ptr + slot[:, None] * D + offs_d[None, :], mask=all_here, other=0.0)
    to = offs
    if source_ptr is not None:
        to = tl.load(source_ptr + offs, mask=here, other=0)
    tl.store(loss_ptr + to, loss, mask=here)
    tl.store(weight_ptr + to, weight, mask=here)
    tl.store(mass_ptr + to, count.to(tl.float32), mask=here)
    if pulls_ptr is not None:
        at = to.to(tl.int64)[:, None] * D_OUT + offs_d[None, :]
        tl.store(pull_ptr + at, pull, mask=here[:, None] & (offs_d < D_OUT)[None, :])


def memory_positives(
    anchors: Rows, bank: BankRows, rule: Rule, pairs: Pairs, log_sum: Tensor, wants_pull: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    N, D = anchors.x.shape
    K, S = bank.x.shape[:2]
    loss, weight, mass = (log_sum.new_empty(N) for _ in range(3))
    pull = log_sum.new_empty(anchors.x.shape if wants_pull else (0,))
    if N == 0:
        return loss, weight, mass, pull
    if rule.positive_groups == "same":  # rows of a bank are of no group
        return loss.zero_(), weight.zero_(), mass.zero_(), pull.zero_()
    labels, bank_labels = short_labels(anchors.labels), bank.labels.contiguous()
    source = order(labels, rule.is_sorted).source
    (x,), word = prepare_bank(anchors.x.contiguous()[None], labels, rule.fixed_shift, source)
    y, _ = prepare_bank(bank.x, bank_labels, rule.fixed_shift)
    width = int(x.shape[-1])
    diagonal, mined, seed = pairs
    mined = None if mined is None else mined.contiguous()
    block_d = launch_table.width(D)
    words = how(rule.denominator, word)

    def start(row: Launch) -> None:
        blocks = cdiv(N, row.BLOCK_M)
        splits = number_of_splits(x, blocks, cdiv(S, row.BLOCK_N), 4 * width if wants_pull else 12)
        sums, counts = loss.new_empty(2, splits, N), labels.new_empty(splits, N)
        pulls = loss.new_empty(splits, N, width) if wants_pull else None
        launch(
            memory_positives_kernel, (blocks, splits), x, labels, source, y, bank_labels, rule.temperature,
            log_sum.contiguous(), mined, seed, sums, counts, pulls, N, K, S, diagonal or 0, y.stride(0), y.stride(1),
            D=width, HOW=words, **tile(row, block_d),
        )  # fmt: skip
        block = max(1, 2048 // block_d) if wants_pull else 128
        launch(
            memory_pulls_kernel, (cdiv(N, block),), sums, counts, pulls, source, loss, weight, mass, pull, N, splits,
            D, D=width, BLOCK=block, BLOCK_D=block_d if wants_pull else 1, num_warps=4,
        )  # fmt: skip

    lifted = x.dtype == torch.float16 and word != "fp16x3" and wants_pull
    kernel = "memory_positives_lifted" if lifted else "memory_positives"
    launch_table.run(kernel, architecture(x), launch_table.kind(x.dtype, word), block_d, start)
    return loss, weight, mass, pull
