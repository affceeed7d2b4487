"""Sums of e^s over a memory bank, and the means of its rows that they weigh: one sweep of the bank, 4 N M D FLOP with
the means, and a launch that adds up the splits. Float32 is split into halves of float16 before, in a launch each for
anchors and bank.

Where a block of anchors is of one class, the rows of that class have no part in "negatives" and are left out.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastpixcon.kernels import launch_table
from fastpixcon.kernels.common import (
    ASSERTIONS,
    LN_2,
    LOG2_E,
    architecture,
    cdiv,
    has,
    how,
    is_temperature,
    launch,
    rounded_product,
    size,
)
from fastpixcon.kernels.info_nce_blocks import begin_rows
from fastpixcon.kernels.info_nce_pairs import BANK_STREAM, is_drawn, load_mined
from fastpixcon.kernels.info_nce_sums import NOTHING
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
def negative_weights(weights, label, c, part):
    """Of the rows of class c in the sums of anchors of these labels [BLOCK_M]; NaN of a label that has none."""
    weights_ptr, anchor_classes, K = weights
    if weights_ptr is None:
        return None
    elif anchor_classes is None:  # the same for all
        return tl.load(weights_ptr + c + tl.zeros_like(label))
    else:
        known = part & (label >= 0) & (label < anchor_classes)
        return tl.load(weights_ptr + tl.where(known, label, 0) * K + c, mask=known, other=float("nan"))


@triton.jit
def weight_bias(same, weight, HOW: tl.constexpr):
    """0, or the logarithm of the weight of a negative, in the unit of the logits."""
    if weight is None:
        return 0.0
    elif has(HOW, "fixed"):
        return tl.where(same, 0.0, tl.log2(weight))
    else:
        return tl.where(same, 0.0, tl.log2(weight) * LN_2)


@triton.jit
def bias_of_pairs(s, same, part, filled, mined, number, weight, HOW: tl.constexpr):
    """What is added to the logits of a tile of one class: 0, or the logarithm of a weight, for pairs whose e^s is in Z
    of their anchor, else -inf. An anchor is of that class or not: same [BLOCK_M]."""
    counts = part & ((has(HOW, "apart") == 0) | (same == 0))
    if has(HOW, "positives_alone"):
        counts = part & same
    row_bias = tl.where(counts, weight_bias(same, weight, HOW), float("-inf"))
    bias = row_bias[:, None] + tl.where(filled, 0.0, float("-inf"))[None, :]
    if mined is not None:
        draw, least, most, negative_share, positive_share = mined
        share = tl.where(same, positive_share, negative_share)
        keep = is_drawn(draw[:, None], number[None, :], share[:, None])
        keep &= s >= tl.where(same, float("-inf"), least)[:, None]
        if not has(HOW, "apart"):
            keep &= s <= tl.where(same, most, float("inf"))[:, None]
        bias = tl.where(keep, bias, float("-inf"))
    return bias


@triton.jit
def memory_sums_kernel(
    x_ptr, x_labels_ptr, bank_ptr, bank_labels_ptr, temperature_ptr, weights_ptr, anchor_classes, mined_ptr, seed_ptr,
    sums_ptr, means_ptr, N, K, S, first_anchor, stride_k, stride_s, D: tl.constexpr, HOW: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Program (block of anchors, split): sums [splits, N] of e^s, behind them, unless fixed, what they are relative to,
    and sums of e^s times rows, means [splits, N, D]. Programs that run side by side read the same tiles."""
    BLOCK_M: tl.constexpr = size(TILE, "BLOCK_M")
    BLOCK_N: tl.constexpr = size(TILE, "BLOCK_N")
    FIXED: tl.constexpr = has(HOW, "fixed")
    offs_i = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    here = offs_i < N
    label_i = tl.load(x_labels_ptr + offs_i, mask=here, other=-1)  # [BLOCK_M]
    part = label_i != -1
    anchors = load_anchors(x_ptr, offs_i, part, N, D, HOW, TILE)
    scale = 1.0 / tl.load(temperature_ptr)
    number_i = tl.cast(first_anchor, tl.int64) + offs_i
    mined = load_mined((mined_ptr, seed_ptr), offs_i, N, here, number_i, BANK_STREAM)
    first = tl.min(tl.where(part, label_i, 0x7FFFFFFF), axis=0)
    last = tl.max(tl.where(part, label_i, -0x7FFFFFFF), axis=0)
    class_tiles = tl.cdiv(S, BLOCK_N)
    left_out = K * class_tiles  # from here on, the tiles of one class
    tiles = left_out
    if has(HOW, "apart"):
        alone = (first == last) & (first >= 0) & (first < K)
        left_out = tl.where(alone, first * class_tiles, left_out)
        tiles -= tl.where(alone, class_tiles, 0)
    begin, end = range_of_split(tl.where(tl.sum(part.to(tl.int32), axis=0) > 0, tiles, 0))
    total = tl.zeros([BLOCK_M], tl.float32)
    largest = tl.full([BLOCK_M], NOTHING, tl.float32)
    mean = begin_rows(D, HOW, TILE) if means_ptr is not None else (total,)
    for t in tl.range(begin, end, num_stages=size(TILE, "STAGES")):
        t += tl.where(t >= left_out, class_tiles, 0)
        c = t // class_tiles
        s0 = (t - c * class_tiles) * BLOCK_N
        offs_j = s0 + tl.arange(0, BLOCK_N)
        filled = tl.load(bank_labels_ptr + c.to(tl.int64) * S + offs_j, mask=offs_j < S, other=-1) != -1
        y = (bank_ptr + c.to(tl.int64) * stride_k, S, stride_s)
        s, rows = cosines(anchors, y, s0, D, HOW, TILE)
        weight = negative_weights((weights_ptr, anchor_classes, K), label_i, c, part)
        bias = bias_of_pairs(s, label_i == c, part, filled, mined, c * S + offs_j, weight, HOW)
        if FIXED:
            e = tl.exp2(s * (scale * LOG2_E) + bias)
        else:
            x = tl.maximum(rounded_product(s, scale) + bias, NOTHING * 1.1)
            top = tl.maximum(largest, tl.max(x, axis=1))
            e = tl.exp2((x - top[:, None]) * LOG2_E)
            before = tl.exp2((largest - top) * LOG2_E)
            total *= before
            if means_ptr is not None:
                mean = (mean[0] * before[:, None],)
            largest = top
        total += tl.sum(e, axis=1)
        if means_ptr is not None:
            mean = add_bank_rows(e, rows, y, s0, mean, D, HOW, TILE)
    slot = tl.program_id(1).to(tl.int64) * N + offs_i
    tl.store(sums_ptr + slot, total, mask=here)
    if not FIXED:
        tl.store(sums_ptr + tl.num_programs(1).to(tl.int64) * N + slot, largest, mask=here)
    if means_ptr is not None:
        store_bank_rows(means_ptr, slot, here, mean, D, HOW, TILE)


@triton.jit
def memory_means_kernel(
    sums_ptr, means_ptr, temperature_ptr, log_sum_ptr, mean_ptr, N, splits, D_OUT, D: tl.constexpr, HOW: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """log of the sums of all splits, and the means, [N, D_OUT]."""
    tl.device_assert(is_temperature(tl.load(temperature_ptr)), "temperature: not a number > 0 from 2^-126 on")
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    offs_d = tl.arange(0, BLOCK_D)
    here = offs < N
    all_here = here[:, None] & (offs_d < D)[None, :]
    maxima_ptr = sums_ptr + tl.cast(splits, tl.int64) * N
    total = tl.zeros([BLOCK], tl.float32)
    largest = tl.full([BLOCK], NOTHING, tl.float32)
    mean = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for number in range(0, splits):
        slot = tl.cast(number, tl.int64) * N + offs
        more = tl.load(sums_ptr + slot, mask=here, other=0.0)
        if not has(HOW, "fixed"):
            maximum = tl.load(maxima_ptr + slot, mask=here, other=NOTHING)
            top = tl.maximum(largest, maximum)
            before = tl.exp2((largest - top) * LOG2_E)
            share = tl.exp2((maximum - top) * LOG2_E)
            total *= before
            more *= share
            largest = top
        total += more
        if means_ptr is not None:
            rows = tl.load(means_ptr + slot[:, None] * D + offs_d[None, :], mask=all_here, other=0.0)
            if not has(HOW, "fixed"):
                mean *= before[:, None]
                rows *= share[:, None]
            mean += rows
    log_sum = tl.log2(total) * LN_2
    if not has(HOW, "fixed"):
        log_sum += largest
    tl.store(log_sum_ptr + offs, tl.where(total == 0, float("-inf"), log_sum), mask=here)
    if means_ptr is not None:
        mean *= tl.where(total == 0, 0.0, 1.0 / tl.where(total == 0, 1.0, total))[:, None]
        at = offs.to(tl.int64)[:, None] * D_OUT + offs_d[None, :]
        tl.store(mean_ptr + at, mean, mask=here[:, None] & (offs_d < D_OUT)[None, :])


def weights_of_classes(bank: BankRows, rule: Rule) -> tuple[Tensor | None, int | None]:
    """Of the rows of each class as negatives: [K]; or [classes, K] of the anchors of as many classes, and how many."""
    u, W, K = bank.negative_weights, rule.class_weights, bank.x.shape[0]
    if W is None:
        return (None, None) if u is None else (u.float().contiguous(), None)
    if W.shape[0] < K:
        raise ValueError(f"class_weights: got {list(W.shape)}, want at least [{K}, {K}] for a bank of {K} classes")
    weights = W[:, :K].float() if u is None else W[:, :K].float() * u.float()
    return weights.contiguous(), W.shape[0]


def memory_sums(anchors: Rows, bank: BankRows, rule: Rule, pairs: Pairs, wants_mean: bool) -> tuple[Tensor, Tensor]:
    N, D = anchors.x.shape
    K, S = bank.x.shape[:2]
    log_sum = anchors.x.new_empty(N, dtype=torch.float32)
    mean = anchors.x.new_empty(anchors.x.shape if wants_mean else (0,), dtype=torch.float32)
    no_positives = rule.apart or rule.positive_groups == "same"  # in the sum: rows of a bank are of no group
    no_negatives = rule.negative_groups == "same"
    if N == 0:
        return log_sum, mean
    if no_positives and no_negatives:
        return log_sum.fill_(float("-inf")), mean.zero_()
    labels, bank_labels, fixed = short_labels(anchors.labels), bank.labels.contiguous(), rule.fixed_shift
    (x,), word = prepare_bank(anchors.x.contiguous()[None], labels, fixed)
    y, _ = prepare_bank(bank.x, bank_labels, fixed)
    width = int(x.shape[-1])
    diagonal, mined, seed = pairs
    mined = None if mined is None else mined.contiguous()
    weights = weights_of_classes(bank, rule)
    block_d = launch_table.width(D)
    words = how(word, apart=no_positives, positives_alone=no_negatives, fixed=fixed)

    def start(row: Launch) -> None:
        blocks = cdiv(N, row.BLOCK_M)
        splits = number_of_splits(x, blocks, K * cdiv(S, row.BLOCK_N), 4 * width if wants_mean else 4)
        sums = log_sum.new_empty(1 if fixed else 2, splits, N)
        means = log_sum.new_empty(splits, N, width) if wants_mean else None
        launch(
            memory_sums_kernel, (blocks, splits), x, labels, y, bank_labels, rule.temperature, *weights, mined, seed,
            sums, means, N, K, S, diagonal or 0, y.stride(0), y.stride(1), D=width, HOW=words, **tile(row, block_d),
        )  # fmt: skip
        block = max(1, 2048 // block_d) if wants_mean else 128
        launch(
            memory_means_kernel, (cdiv(N, block),), sums, means, rule.temperature, log_sum, mean, N, splits, D,
            D=width, HOW=how(fixed=fixed), BLOCK=block, BLOCK_D=block_d if wants_mean else 1, num_warps=4, **ASSERTIONS,
        )  # fmt: skip

    kernel = "memory_sums_mined" if mined is not None else "memory_sums" if fixed else "memory_sums_online"
    if x.dtype == torch.float16 and word != "fp16x3" and wants_mean:
        kernel = "memory_sums_lifted"
    launch_table.run(kernel, architecture(x), launch_table.kind(x.dtype, word), block_d, start)
    return log_sum, mean
