"""Forward kernels of info_nce: partial sums of e^s, then log Z and the means over positives."""

import triton
import triton.language as tl

from fastpixcon.kernels.common import LN_2, LOG2_E, dot, is_temperature, rounded_product, softplus_sigmoid
from fastpixcon.kernels.info_nce_blocks import (
    blocks_between,
    left_out,
    load_keys,
    load_rows,
    pick,
    plan_masked,
    plan_plain,
    products_in_parts,
    rows_of_block,
    taking_part,
)
from fastpixcon.kernels.info_nce_pairs import BATCH_STREAM, draw_keys, is_drawn, is_kept, load_mined, numbers_of

NOTHING = tl.constexpr(-3.0e38)  # the maximum of an empty sum: finite, so that differences to it are


@triton.jit
def add_exponential(total, largest, x):
    """total e^largest + e^x, element by element: one exponential, of what is not the larger."""
    beyond = x - largest
    e = tl.exp2(-tl.abs(beyond) * LOG2_E)
    return tl.where(beyond > 0, total * e + 1.0, total + e), tl.maximum(largest, x)


@triton.jit
def sum_exponentials(total, largest, AXIS: tl.constexpr):
    """The sum along AXIS of total e^largest, as (sum, maximum)."""
    top = tl.max(largest, axis=AXIS)
    return tl.sum(total * tl.exp2((largest - tl.expand_dims(top, AXIS)) * LOG2_E), axis=AXIS), top


@triton.jit
def sums_tile(
    a, x_ptr, i0, x_end, keys_i, number_i, draw_i, least_i, most_i, negative_share_i, positive_share_i,
    y_ptr, y_labels_ptr, y_source_ptr, y_first, j0, y_end, D: tl.constexpr, scale, total, largest,
    sums_ptr, maxima_ptr, column_slot, own_columns,
    MASKED: tl.constexpr, SELF: tl.constexpr, DIAGONAL: tl.constexpr, MINED: tl.constexpr, Y_SORTED: tl.constexpr,
    NEGATIVES: tl.constexpr, FIXED: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Adds the exponentials of a tile [BLOCK_N columns of S, BLOCK_M rows of S], element by element, to total and
    largest; for SELF also the sums of its columns to theirs. Lying on its side, a tile adds up a column within few
    threads, and the rows need no sums before the last tile."""
    offs_j = j0 + tl.arange(0, BLOCK_N)
    if BLOCK_K == BLOCK_D:
        y = load_rows(y_ptr, j0, y_end, D, MASKED, BLOCK_N, BLOCK_D)
        s = dot(y, tl.trans(a), tl.zeros([BLOCK_N, BLOCK_M], tl.float32), PRECISION)
    else:
        s = products_in_parts(y_ptr, j0, y_end, x_ptr, i0, x_end, D, PRECISION, BLOCK_N, BLOCK_M, BLOCK_K, STAGES)
    if FIXED:
        x = tl.exp2(s * (scale * LOG2_E))
    else:
        x = rounded_product(s, scale)
    if MASKED:
        keys_j = load_keys(y_labels_ptr, offs_j, y_end)
        keep = (left_out(keys_j) == 0)[:, None] & (left_out(keys_i) == 0)[None, :]
        if NEGATIVES:
            keep &= keys_j[:, None] != keys_i[None, :]
        elif SELF:
            keep &= offs_j[:, None] != (i0 + tl.arange(0, BLOCK_M))[None, :]
        number_j = numbers_of(y_source_ptr, y_first, offs_j, y_end, Y_SORTED, DIAGONAL or MINED)
        if DIAGONAL and not NEGATIVES:  # nobody is a negative of itself
            keep &= number_j[:, None] != number_i[None, :]
        if MINED:
            keep &= is_kept(
                s, keys_j[:, None] == keys_i[None, :], draw_i[None, :], number_j[:, None], least_i[None, :],
                most_i[None, :], negative_share_i[None, :], positive_share_i[None, :],
            )  # fmt: skip
        x = tl.where(keep, x, 0.0 if FIXED else NOTHING * 1.1)
    if FIXED:
        total += x
    else:
        total, largest = add_exponential(total, largest, x)
    if SELF:
        column_ptr = sums_ptr + column_slot
        here = offs_j < y_end
        column = tl.load(column_ptr + offs_j, mask=here, other=0.0)
        if FIXED:
            column += tl.where(own_columns, tl.sum(x, axis=1), 0.0)
        else:
            column_max_ptr = maxima_ptr + column_slot
            before = tl.load(column_max_ptr + offs_j, mask=here, other=NOTHING)
            top = tl.maximum(before, tl.where(own_columns, tl.max(x, axis=1), NOTHING))
            more = tl.sum(tl.exp2((x - top[:, None]) * LOG2_E), axis=1)
            column = column * tl.exp2((before - top) * LOG2_E) + tl.where(own_columns, more, 0.0)
            tl.store(column_max_ptr + offs_j, top, mask=here)
        tl.store(column_ptr + offs_j, column, mask=here)
    return total, largest


@triton.jit
def info_nce_sums_kernel(
    x_ptr, x_labels_ptr, y_ptr, y_labels_ptr, temperature_ptr, sums_ptr, maxima_ptr, N, M, size_x, size_y, groups,
    x_source_ptr, y_source_ptr, x_first, y_first, mined_ptr, seed_ptr,
    D: tl.constexpr, SELF: tl.constexpr, DIAGONAL: tl.constexpr, MINED: tl.constexpr, X_SORTED: tl.constexpr,
    Y_SORTED: tl.constexpr, NEGATIVES: tl.constexpr, FIXED: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, MASKED_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, CHUNK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Partial sums of e^s, [slots, N]: program (p, c) takes the columns of group c and the rows of group p, or of group
    c - p for SELF, where the pairs of an odd number of groups c - p, c with p <= groups / 2 are all pairs once, so that
    its columns are rows of others: slot p for its rows, groups / 2 + 1 + p for its columns. Programs that run side by
    side read the same columns."""
    p = tl.program_id(0)
    c = tl.program_id(1)
    g = p
    row_slot = c.to(tl.int64) * N
    column_slot = row_slot
    if SELF:
        g = (c - p + groups) % groups
        row_slot = p.to(tl.int64) * N
        column_slot = (tl.num_programs(0) + p).to(tl.int64) * N
    scale = 1.0 / tl.load(temperature_ptr)
    column_start = tl.minimum(c * size_y, M)
    column_end = tl.minimum(column_start + size_y, M)
    row_start = g * size_x
    row_end = tl.minimum(row_start + size_x, N)
    if SELF:  # the sum of every column is begun here, visited or not
        for j0 in range(column_start, column_end, BLOCK_N):
            offs_j = j0 + tl.arange(0, BLOCK_N)
            tl.store(sums_ptr + column_slot + offs_j, tl.zeros([BLOCK_N], tl.float32), mask=offs_j < column_end)
            if not FIXED:
                low = tl.full([BLOCK_N], NOTHING, tl.float32)
                tl.store(maxima_ptr + column_slot + offs_j, low, mask=offs_j < column_end)
        tl.debug_barrier()
    for i0 in range(row_start, row_end, BLOCK_M):
        offs_i = i0 + tl.arange(0, BLOCK_M)
        x_end = i0 + taking_part(load_keys(x_labels_ptr, offs_i, N))
        a = offs_i
        if BLOCK_K == BLOCK_D:
            a = load_rows(x_ptr, i0, x_end, D, True, BLOCK_M, BLOCK_D)  # [BLOCK_M, BLOCK_D]
        first, last, whole = rows_of_block(x_labels_ptr, i0, N, BLOCK_M)
        if MINED:  # masks everywhere
            whole = whole & False
        start = 0
        if SELF:
            start = tl.where(g == c, (i0 - row_start) // BLOCK_N, 0)
        plain_1, plain_at, plain = plan_plain(
            y_labels_ptr + column_start, column_end - column_start, first, last, whole, start, BLOCK_N, CHUNK
        )
        total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        largest = total
        if not FIXED:
            largest = tl.full([BLOCK_N, BLOCK_M], NOTHING, tl.float32)
        for t in tl.range(0, plain, num_stages=STAGES):
            j0 = column_start + pick(t, start, plain_1, plain_at) * BLOCK_N
            own = (g != c) | (j0 >= i0 + BLOCK_M)  # the square on the diagonal is all rows
            total, largest = sums_tile(
                a, x_ptr, i0, x_end, offs_i, offs_i, offs_i, offs_i, offs_i, offs_i, offs_i,
                y_ptr, y_labels_ptr, y_source_ptr, y_first, j0, column_end, D, scale,
                total, largest, sums_ptr, maxima_ptr, column_slot, own,
                False, SELF, False, False, Y_SORTED, NEGATIVES, FIXED, PRECISION, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_K,
                STAGES,
            )  # fmt: skip
        if FIXED:
            row_sum = tl.sum(total, axis=0)
        else:
            row_sum, row_max = sum_exponentials(total, largest, 0)
        keys_i = load_keys(x_labels_ptr, offs_i, N)
        number_i = numbers_of(x_source_ptr, x_first, offs_i, N, X_SORTED, DIAGONAL or MINED)
        draw_i = draw_keys(seed_ptr, number_i, BATCH_STREAM, MINED)
        least_i, most_i, negative_share_i, positive_share_i = load_mined(
            mined_ptr, (number_i - x_first) if MINED else number_i, N, offs_i < N, MINED
        )
        first, last, whole = rows_of_block(x_labels_ptr, i0, N, BLOCK_M)
        if MINED:  # masks everywhere
            whole = whole & False
        masked_at, masked_1, rest_at, masked, columns = plan_masked(
            y_labels_ptr + column_start, column_end - column_start, first, last, whole, start, BLOCK_N, CHUNK
        )
        y_end = column_start + columns
        total = tl.zeros([MASKED_N, BLOCK_M], tl.float32)
        largest = total
        if not FIXED:
            largest = tl.full([MASKED_N, BLOCK_M], NOTHING, tl.float32)
        for t in tl.range(0, masked * (BLOCK_N // MASKED_N), num_stages=1):
            block = pick(t // (BLOCK_N // MASKED_N), masked_at, masked_1, rest_at)
            j0 = column_start + block * BLOCK_N + t % (BLOCK_N // MASKED_N) * MASKED_N
            own = (g != c) | (j0 >= i0 + BLOCK_M)
            total, largest = sums_tile(
                a, x_ptr, i0, x_end, keys_i, number_i, draw_i, least_i, most_i, negative_share_i, positive_share_i,
                y_ptr, y_labels_ptr, y_source_ptr, y_first, j0, y_end, D, scale,
                total, largest, sums_ptr, maxima_ptr, column_slot, own,
                True, SELF, DIAGONAL, MINED, Y_SORTED, NEGATIVES, FIXED, PRECISION, BLOCK_M, MASKED_N, BLOCK_D, BLOCK_K,
                STAGES,
            )  # fmt: skip
        if FIXED:
            row_sum += tl.sum(total, axis=0)
        else:
            masked_sum, masked_max = sum_exponentials(total, largest, 0)
            top = tl.maximum(row_max, masked_max)
            row_sum = row_sum * tl.exp2((row_max - top) * LOG2_E) + masked_sum * tl.exp2((masked_max - top) * LOG2_E)
            tl.store(maxima_ptr + row_slot + offs_i, top, mask=offs_i < row_end)
        tl.store(sums_ptr + row_slot + offs_i, row_sum, mask=offs_i < row_end)
        if SELF:
            tl.debug_barrier()  # the next rows add to the same columns


@triton.jit
def log_of_sums(
    sums_ptr, maxima_ptr, offs_i, here, N, slots, FIXED: tl.constexpr, BLOCK_M: tl.constexpr, SLOTS: tl.constexpr
):
    """log of the sums of all slots, -inf for an empty one."""
    total = tl.zeros([BLOCK_M], tl.float32)
    largest = tl.full([BLOCK_M], NOTHING, tl.float32)
    for start in range(0, slots, SLOTS):
        slot = start + tl.arange(0, SLOTS)
        at = slot.to(tl.int64)[:, None] * N + offs_i[None, :]
        there = (slot < slots)[:, None] & here[None, :]
        sums = tl.load(sums_ptr + at, mask=there, other=0.0)  # [SLOTS, BLOCK_M]
        if FIXED:
            total += tl.sum(sums, axis=0)
        else:
            maxima = tl.load(maxima_ptr + at, mask=there, other=NOTHING)
            top = tl.maximum(largest, tl.max(maxima, axis=0))
            total *= tl.exp2((largest - top) * LOG2_E)
            total += tl.sum(sums * tl.exp2((maxima - top[None, :]) * LOG2_E), axis=0)
            largest = top
    log_sum = tl.log2(total) * LN_2
    if not FIXED:
        log_sum += largest
    return tl.where(total > 0, log_sum, tl.where(total == total, float("-inf"), total))


@triton.jit
def info_nce_log_sums_kernel(
    sums_ptr, maxima_ptr, labels_ptr, source_ptr, temperature_ptr, log_sum_ptr, N, slots, FIXED: tl.constexpr,
    SORTED: tl.constexpr, BLOCK_M: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """log Z of every row, to where it came from."""
    tl.device_assert(is_temperature(tl.load(temperature_ptr)), "temperature: not a number > 0 from 2^-126 on")
    offs_i = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    here = offs_i < N
    log_sum = log_of_sums(sums_ptr, maxima_ptr, offs_i, here, N, slots, FIXED, BLOCK_M, SLOTS)
    log_sum = tl.where(left_out(load_keys(labels_ptr, offs_i, N)), float("-inf"), log_sum)
    to = offs_i
    if SORTED == 0:
        to = tl.load(source_ptr + offs_i, mask=here, other=0)
    tl.store(log_sum_ptr + to, log_sum, mask=here)


@triton.jit
def info_nce_positives_kernel(
    x_ptr, x_labels_ptr, y_ptr, y_labels_ptr, source_ptr, temperature_ptr, sums_ptr, maxima_ptr,
    loss_ptr, log_sum_ptr, weight_ptr, num_positives_ptr, N, M, slots, y_source_ptr, x_first, y_first, mined_ptr,
    seed_ptr, D: tl.constexpr, SELF: tl.constexpr, DIAGONAL: tl.constexpr, MINED: tl.constexpr, GIVEN: tl.constexpr,
    Y_SORTED: tl.constexpr, NEGATIVES: tl.constexpr, FIXED: tl.constexpr, SORTED: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr, CHUNK: tl.constexpr, SLOTS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """log Z of a block of rows from its partial sums, then the means over their positives: a sweep over the blocks of
    their classes only. GIVEN: log Z comes from outside, and sums are wanted instead of means."""
    i0 = tl.program_id(0) * BLOCK_M
    offs_i = i0 + tl.arange(0, BLOCK_M)
    here = offs_i < N
    keys_i = load_keys(x_labels_ptr, offs_i, N)
    part = left_out(keys_i) == 0
    if GIVEN:
        to = numbers_of(source_ptr, 0, offs_i, N, SORTED, True)
        log_sum = tl.load(log_sum_ptr + to, mask=here, other=float("-inf"))
    else:
        log_sum = log_of_sums(sums_ptr, maxima_ptr, offs_i, here, N, slots, FIXED, BLOCK_M, SLOTS)
        log_sum = tl.where(part, log_sum, float("-inf"))

    x_end = i0 + taking_part(keys_i)
    a = offs_i
    if BLOCK_K == BLOCK_D:
        a = load_rows(x_ptr, i0, x_end, D, True, BLOCK_M, BLOCK_D)
    scale = 1.0 / tl.load(temperature_ptr)
    first, last, _whole = rows_of_block(x_labels_ptr, i0, N, BLOCK_M)
    before, begun, _full, y_end = blocks_between(y_labels_ptr, M, first, last, BLOCK_N, CHUNK)
    number_i = numbers_of(source_ptr, x_first, offs_i, N, SORTED, DIAGONAL or MINED)
    draw_i = draw_keys(seed_ptr, number_i, BATCH_STREAM, MINED)
    _, most, _, share = load_mined(mined_ptr, (number_i - x_first) if MINED else number_i, N, here, MINED)
    losses = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    weights = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    counts = tl.zeros([BLOCK_M, BLOCK_N], tl.int32)
    for t in tl.range(before, tl.minimum(begun, tl.cdiv(y_end, BLOCK_N)), num_stages=STAGES):
        offs_j = t * BLOCK_N + tl.arange(0, BLOCK_N)
        if BLOCK_K == BLOCK_D:
            y = load_rows(y_ptr, t * BLOCK_N, y_end, D, True, BLOCK_N, BLOCK_D)
            s = dot(a, tl.trans(y), tl.zeros([BLOCK_M, BLOCK_N], tl.float32), PRECISION)
        else:
            s = products_in_parts(
                x_ptr, i0, x_end, y_ptr, t * BLOCK_N, y_end, D, PRECISION, BLOCK_M, BLOCK_N,
                BLOCK_K, STAGES,
            )  # fmt: skip
        x = rounded_product(s, scale)
        keys_j = load_keys(y_labels_ptr, offs_j, M)
        positive = keys_i[:, None] == keys_j[None, :]
        if SELF:
            positive &= offs_i[:, None] != offs_j[None, :]
        number_j = numbers_of(y_source_ptr, y_first, offs_j, M, Y_SORTED, DIAGONAL or MINED)
        if DIAGONAL:
            positive &= number_i[:, None] != number_j[None, :]
        if MINED:
            positive &= (s <= most[:, None]) & is_drawn(draw_i[:, None], number_j[None, :], share[:, None])
        if NEGATIVES:
            softplus, sigmoid = softplus_sigmoid(log_sum[:, None] - x)
            losses += tl.where(positive, softplus, 0.0)
            weights += tl.where(positive, sigmoid, 0.0)
        elif GIVEN:
            losses += tl.where(positive, log_sum[:, None] - x, 0.0)
        else:
            losses += tl.where(positive, x, 0.0)
        counts += positive.to(tl.int32)
    count = tl.where(part, tl.sum(counts, axis=1), 0)
    mean = 1.0 / tl.maximum(count, 1).to(tl.float32)
    if GIVEN:
        mean = tl.full([BLOCK_M], 1.0, tl.float32)
    loss = tl.sum(losses, axis=1) * mean
    if not NEGATIVES and not GIVEN:
        loss = log_sum - loss
    loss = tl.where(count > 0, loss, 0.0)
    weight = tl.where(count > 0, tl.sum(weights, axis=1) * mean, 0.0)
    to = offs_i
    if SORTED == 0:
        to = tl.load(source_ptr + offs_i, mask=here, other=0)
    tl.store(loss_ptr + to, loss, mask=here)
    if not GIVEN:
        tl.store(log_sum_ptr + to, log_sum, mask=here)
    tl.store(weight_ptr + to, weight, mask=here)
    tl.store(num_positives_ptr + to, count, mask=here)
