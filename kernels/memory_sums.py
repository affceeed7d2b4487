"""Sums of e^s over a memory bank, and the means of its rows that they weigh: one sweep of the bank, 4 N M D FLOP with
the means, and a launch that adds up the splits.

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
    is_temperature,
    launch,
    rounded_product,
)
from fastpixcon.kernels.info_nce import precision
from fastpixcon.kernels.info_nce_pairs import BANK_STREAM, draw_keys, is_drawn, load_mined
from fastpixcon.kernels.info_nce_sums import NOTHING
from fastpixcon.kernels.launch_table import Launch
from fastpixcon.kernels.memory_sums_blocks import (
    add_rows,
    cosines,
    load_part,
    options,
    range_of_split,
    rows_in_line,
    short_labels,
    split,
)
from fastpixcon.values import BankRows, Pairs, Rows, Rule


@triton.jit
def memory_sums_kernel(
    x_ptr, x_labels_ptr, bank_ptr, bank_labels_ptr, temperature_ptr, mined_ptr, seed_ptr, sums_ptr, maxima_ptr,
    means_ptr, N, K, S, first_anchor, stride_n, stride_k, stride_s, stride_lk, stride_ls, D: tl.constexpr,
    NEGATIVES: tl.constexpr, FIXED: tl.constexpr, MINED: tl.constexpr, MEAN: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Program (block of anchors, split): sums [splits, N] of e^s, relative to maxima unless FIXED, and of e^s times
    rows, means [splits, N, D]. Programs that run side by side read the same tiles."""
    offs_i = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    here = offs_i < N
    label_i = tl.load(x_labels_ptr + offs_i, mask=here, other=-1)  # [BLOCK_M]
    part = label_i != -1
    a = offs_i
    if BLOCK_K == BLOCK_D:
        a = load_part(x_ptr, offs_i, part, stride_n, 0, D, BLOCK_D)  # [BLOCK_M, BLOCK_D]
    scale = 1.0 / tl.load(temperature_ptr)
    least, most, negative_share, positive_share = load_mined(mined_ptr, offs_i, N, here, MINED)
    key_i = draw_keys(seed_ptr, tl.cast(first_anchor, tl.int64) + offs_i, BANK_STREAM, MINED)
    first = tl.min(tl.where(part, label_i, 0x7FFFFFFF), axis=0)
    last = tl.max(tl.where(part, label_i, -0x7FFFFFFF), axis=0)
    class_tiles = tl.cdiv(S, BLOCK_N)
    left_out = K * class_tiles  # from here on, the tiles of one class
    tiles = left_out
    if NEGATIVES:
        alone = (first == last) & (first >= 0) & (first < K)
        left_out = tl.where(alone, first * class_tiles, left_out)
        tiles -= tl.where(alone, class_tiles, 0)
    begin, end = range_of_split(tl.where(tl.sum(part.to(tl.int32), axis=0) > 0, tiles, 0))
    total = tl.zeros([BLOCK_M], tl.float32)
    largest = tl.full([BLOCK_M], NOTHING, tl.float32)
    mean = tl.zeros([BLOCK_M, BLOCK_D], tl.float32) if MEAN else total
    for t in tl.range(begin, end, num_stages=STAGES):
        t += tl.where(t >= left_out, class_tiles, 0)
        c = t // class_tiles
        s0 = (t - c * class_tiles) * BLOCK_N
        offs_j = s0 + tl.arange(0, BLOCK_N)
        label_at = bank_labels_ptr + c.to(tl.int64) * stride_lk + offs_j.to(tl.int64) * stride_ls
        filled = tl.load(label_at, mask=offs_j < S, other=-1) != -1
        y_ptr = bank_ptr + c.to(tl.int64) * stride_k
        s, y = cosines(
            a, x_ptr, offs_i, part, stride_n, y_ptr, s0, S, stride_s, D, PRECISION, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_K,
            STAGES,
        )  # fmt: skip
        same = label_i == c
        row_bias = tl.where(part & ((NEGATIVES == 0) | (same == 0)), 0.0, float("-inf"))
        bias = row_bias[:, None] + tl.where(filled, 0.0, float("-inf"))[None, :]
        if MINED:
            keep = is_drawn(
                key_i[:, None], (c * S + offs_j)[None, :], tl.where(same, positive_share, negative_share)[:, None]
            )
            keep &= s >= tl.where(same, float("-inf"), least)[:, None]
            if not NEGATIVES:
                keep &= s <= tl.where(same, most, float("inf"))[:, None]
            bias = tl.where(keep, bias, float("-inf"))
        if FIXED:
            e = tl.exp2(s * (scale * LOG2_E) + bias)
        else:
            x = tl.maximum(rounded_product(s, scale) + bias, NOTHING * 1.1)
            top = tl.maximum(largest, tl.max(x, axis=1))
            e = tl.exp2((x - top[:, None]) * LOG2_E)
            before = tl.exp2((largest - top) * LOG2_E)
            total *= before
            if MEAN:
                mean *= before[:, None]
            largest = top
        total += tl.sum(e, axis=1)
        if MEAN:
            mean = add_rows(
                mean, e, y, y_ptr, s0, S, stride_s, D, PRECISION, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_K, STAGES
            )
    slot = tl.program_id(1).to(tl.int64) * N + offs_i
    tl.store(sums_ptr + slot, total, mask=here)
    if not FIXED:
        tl.store(maxima_ptr + slot, largest, mask=here)
    if MEAN:
        offs_d = tl.arange(0, BLOCK_D)
        tl.store(means_ptr + slot[:, None] * D + offs_d[None, :], mean, mask=here[:, None] & (offs_d < D)[None, :])


@triton.jit
def memory_means_kernel(
    sums_ptr, maxima_ptr, means_ptr, temperature_ptr, log_sum_ptr, mean_ptr, N, splits, D: tl.constexpr,
    FIXED: tl.constexpr, MEAN: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """log of the sums of all splits, and the means."""
    tl.device_assert(is_temperature(tl.load(temperature_ptr)), "temperature: not a number > 0 from 2^-126 on")
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    offs_d = tl.arange(0, BLOCK_D)
    here = offs < N
    all_here = here[:, None] & (offs_d < D)[None, :]
    total = tl.zeros([BLOCK], tl.float32)
    largest = tl.full([BLOCK], NOTHING, tl.float32)
    mean = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for number in range(0, splits):
        slot = tl.cast(number, tl.int64) * N + offs
        more = tl.load(sums_ptr + slot, mask=here, other=0.0)
        if not FIXED:
            maximum = tl.load(maxima_ptr + slot, mask=here, other=NOTHING)
            top = tl.maximum(largest, maximum)
            before = tl.exp2((largest - top) * LOG2_E)
            share = tl.exp2((maximum - top) * LOG2_E)
            total *= before
            more *= share
            largest = top
        total += more
        if MEAN:
            rows = tl.load(means_ptr + slot[:, None] * D + offs_d[None, :], mask=all_here, other=0.0)
            if not FIXED:
                mean *= before[:, None]
                rows *= share[:, None]
            mean += rows
    log_sum = tl.log2(total) * LN_2
    if not FIXED:
        log_sum += largest
    tl.store(log_sum_ptr + offs, tl.where(total == 0, float("-inf"), log_sum), mask=here)
    if MEAN:
        mean *= tl.where(total == 0, 0.0, 1.0 / tl.where(total == 0, 1.0, total))[:, None]
        at = offs.to(tl.int64)[:, None] * D + offs_d[None, :]
        tl.store(mean_ptr + at, mean, mask=all_here)


def memory_sums(anchors: Rows, bank: BankRows, rule: Rule, pairs: Pairs, wants_mean: bool) -> tuple[Tensor, Tensor]:
    N, D = anchors.x.shape
    K, S, _ = bank.x.shape
    log_sum = anchors.x.new_empty(N, dtype=torch.float32)
    mean = anchors.x.new_empty(anchors.x.shape if wants_mean else (0,), dtype=torch.float32)
    if N == 0:
        return log_sum, mean
    x, y, labels = rows_in_line(anchors.x), rows_in_line(bank.x), short_labels(anchors.labels)
    fixed = rule.fixed_shift and x.dtype != torch.float16  # which has no exponents for e^s
    diagonal, mined, seed = pairs
    mined = None if mined is None else mined.contiguous()
    block_d = launch_table.width(D)

    def start(row: Launch) -> None:
        blocks = cdiv(N, row.BLOCK_M)
        splits = split(x, blocks, K * cdiv(S, row.BLOCK_N), 4 * D if wants_mean else 4)
        sums = log_sum.new_empty(splits, N)
        maxima = None if fixed else torch.empty_like(sums)
        means = log_sum.new_empty(splits, N, D) if wants_mean else None
        launch(
            memory_sums_kernel, (blocks, splits), x, labels, y, bank.labels, rule.temperature, mined, seed, sums,
            maxima, means, N, K, S, diagonal or 0, x.stride(0), y.stride(0), y.stride(1), *bank.labels.stride(), D=D,
            NEGATIVES=rule.denominator == "negatives", FIXED=fixed, MINED=mined is not None, MEAN=wants_mean,
            PRECISION=precision(x.dtype, fixed), **options(row, block_d),
        )  # fmt: skip
        block = max(1, 2048 // block_d) if wants_mean else 128
        launch(
            memory_means_kernel, (cdiv(N, block),), sums, maxima, means, rule.temperature, log_sum, mean, N, splits,
            D=D, FIXED=fixed, MEAN=wants_mean, BLOCK=block, BLOCK_D=block_d if wants_mean else 1, num_warps=4,
            **ASSERTIONS,
        )  # fmt: skip

    kernel = "memory_sums_mined" if mined is not None else "memory_sums" if fixed else "memory_sums_online"
    launch_table.run(kernel, architecture(x), x.element_size(), block_d, start)
    return log_sum, mean
