"""Forward kernels of info_nce: partial sums of e^s, then log Z and the means over positives."""

import triton
import triton.language as tl

from fastpixcon.kernels.common import (
    LN_2,
    LOG2_E,
    has,
    is_temperature,
    rounded_product,
    size,
    softplus_sigmoid,
)
from fastpixcon.kernels.info_nce_blocks import (
    blocks_between,
    left_out,
    load_block,
    load_keys,
    pick,
    plan_masked,
    plan_plain,
    products,
    products_on_their_side,
    rows_of_block,
    taking_part,
)
from fastpixcon.kernels.info_nce_pairs import (
    as_anchors,
    as_column,
    as_columns,
    as_row,
    as_rows,
    is_in_sum,
    is_positive,
    load_facts,
    load_weight,
    places_of,
    set_of_rows,
    without_masks,
)
from fastpixcon.kernels.info_nce_weights import (
    as_factor,
    load_plain,
    plain_weights,
    times,
    weighed,
    weight_in_sum,
    without,
)

NOTHING = tl.constexpr(-3.0e38)  # the maximum of an empty sum: finite, so that differences to it are
SLOTS = tl.constexpr(16)  # of partial sums, read together


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
    block, i, y, j0, y_end, scale, classes, total, largest, columns_ptr, maxima, own_columns,
    MASKED: tl.constexpr, D: tl.constexpr, HOW: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Adds the exponentials of a tile [BLOCK_N columns of S, BLOCK_M rows of S], element by element, to total and
    largest; in a triangle also the sums of its columns to theirs. Lying on its side, a tile adds up a column within few
    threads, and the rows need no sums before the last tile.

    i: facts of the rows, or what a tile without masks asks of them. maxima: where they lie beyond the sums of the
    columns."""
    BLOCK_N: tl.constexpr = size(TILE, "MASKED_N") if MASKED else size(TILE, "BLOCK_N")
    FIXED: tl.constexpr = has(HOW, "fixed")
    offs_j = j0 + tl.arange(0, BLOCK_N)
    s = products_on_their_side(block, y[0], j0, y_end, MASKED, BLOCK_N, D, HOW, TILE)
    if FIXED:
        x = tl.exp2(s * (scale * LOG2_E))
    else:
        x = rounded_product(s, scale)
    if MASKED:
        j = load_facts(y, offs_j, y_end, HOW)
        counts = is_in_sum(s, as_columns(i), as_rows(j), HOW)
        by_rows = weight_in_sum(as_columns(i), as_rows(j), classes, HOW)
        seen = tl.where(counts, times(x, by_rows, HOW), 0.0 if FIXED else NOTHING * 1.1)
    else:
        by_rows, by_columns, of_columns = plain_weights(i, load_plain(y, offs_j, y_end, classes, HOW), classes, HOW)
        seen = times(x, as_row(by_rows), HOW)
    if FIXED:
        total += seen
    else:
        total, largest = add_exponential(total, largest, seen)
    if has(HOW, "triangle"):
        if MASKED:
            by_columns = weight_in_sum(as_rows(j), as_columns(i), classes, HOW)
            x = tl.where(counts, times(x, by_columns, HOW), 0.0 if FIXED else NOTHING * 1.1)
            of_columns = None
        else:
            x = times(x, as_column(by_columns), HOW)
        here = offs_j < y_end
        column = tl.load(columns_ptr + offs_j, mask=here, other=0.0)
        if FIXED:
            column += tl.where(own_columns, times(tl.sum(x, axis=1), of_columns, HOW), 0.0)
        else:
            before = tl.load(columns_ptr + maxima + offs_j, mask=here, other=NOTHING)
            top = tl.maximum(before, tl.where(own_columns, times(tl.max(x, axis=1), of_columns, HOW), NOTHING))
            more = tl.sum(tl.exp2((x - without(top, of_columns)[:, None]) * LOG2_E), axis=1)
            column = column * tl.exp2((before - top) * LOG2_E) + tl.where(own_columns, more, 0.0)
            tl.store(columns_ptr + maxima + offs_j, top, mask=here)
        tl.store(columns_ptr + offs_j, column, mask=here)
    return total, largest


@triton.jit
def begin_sums(BLOCK_N: tl.constexpr, HOW: tl.constexpr, TILE: tl.constexpr):
    """Of no tile: sums and what they are relative to."""
    total = tl.zeros([BLOCK_N, size(TILE, "BLOCK_M")], tl.float32)
    largest = total
    if not has(HOW, "fixed"):
        largest = tl.full([BLOCK_N, size(TILE, "BLOCK_M")], NOTHING, tl.float32)
    return total, largest


@triton.jit
def info_nce_sums_kernel(
    x_ptr, x_facts_ptr, N, x_first, y_ptr, y_facts_ptr, M, y_first, temperature_ptr, class_weights_ptr, K,
    mined_ptr, seed_ptr, sums_ptr, size_x, size_y, groups, D: tl.constexpr, HOW: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Partial sums of e^s, [slots, N], and behind them, unless fixed, what they are relative to.

    Program (p, c) takes the columns of group c and the rows of group p, or of group c - p in a triangle, where the
    pairs of an odd number of groups c - p, c with p <= groups / 2 are all pairs once, so that its columns are rows of
    others: slot p for its rows, groups / 2 + 1 + p for its columns. Programs that run side by side read the same
    columns."""
    BLOCK_M: tl.constexpr = size(TILE, "BLOCK_M")
    BLOCK_N: tl.constexpr = size(TILE, "BLOCK_N")
    MASKED_N: tl.constexpr = size(TILE, "MASKED_N")
    STAGES: tl.constexpr = size(TILE, "STAGES")
    TRIANGLE: tl.constexpr = has(HOW, "triangle")
    FIXED: tl.constexpr = has(HOW, "fixed")
    x = set_of_rows(x_ptr, x_facts_ptr, N, x_first, None, HOW, "x")
    y = set_of_rows(y_ptr, y_facts_ptr, M, y_first, None, HOW, "y")
    classes = (class_weights_ptr, K)
    p = tl.program_id(0)
    c = tl.program_id(1)
    g = p
    row_slot = c.to(tl.int64) * N
    column_slot = row_slot
    maxima = tl.num_programs(1).to(tl.int64) * N
    if TRIANGLE:
        g = (c - p + groups) % groups
        row_slot = p.to(tl.int64) * N
        column_slot = (tl.num_programs(0) + p).to(tl.int64) * N
        maxima = tl.num_programs(0).to(tl.int64) * 2 * N
    rows_ptr = sums_ptr + row_slot
    columns_ptr = sums_ptr + column_slot
    scale = 1.0 / tl.load(temperature_ptr)
    column_start = tl.minimum(c * size_y, M)
    column_end = tl.minimum(column_start + size_y, M)
    row_start = g * size_x
    row_end = tl.minimum(row_start + size_x, N)
    if TRIANGLE:  # the sum of every column is begun here, visited or not
        for j0 in range(column_start, column_end, BLOCK_N):
            offs_j = j0 + tl.arange(0, BLOCK_N)
            tl.store(columns_ptr + offs_j, tl.zeros([BLOCK_N], tl.float32), mask=offs_j < column_end)
            if not FIXED:
                low = tl.full([BLOCK_N], NOTHING, tl.float32)
                tl.store(columns_ptr + maxima + offs_j, low, mask=offs_j < column_end)
        tl.debug_barrier()
    for i0 in range(row_start, row_end, BLOCK_M):
        offs_i = i0 + tl.arange(0, BLOCK_M)
        block = load_block(x_ptr, i0, i0 + taking_part(load_keys(x_facts_ptr, offs_i, N)), D, HOW, TILE)
        first, last, whole = rows_of_block(x_facts_ptr, i0, N, BLOCK_M)
        whole = without_masks(whole, first, last, mined_ptr, class_weights_ptr, HOW)
        start = 0
        if TRIANGLE:
            start = tl.where(g == c, (i0 - row_start) // BLOCK_N, 0)
        plain_1, plain_at, plain = plan_plain(
            y_facts_ptr + column_start, column_end - column_start, first, last, whole, start, BLOCK_N
        )
        i = first, as_factor(load_weight(x, offs_i, row_end, 1), HOW)
        total, largest = begin_sums(BLOCK_N, HOW, TILE)
        for t in tl.range(0, plain, num_stages=STAGES):
            j0 = column_start + pick(t, start, plain_1, plain_at) * BLOCK_N
            own = (g != c) | (j0 >= i0 + BLOCK_M)  # the square on the diagonal is all rows
            total, largest = sums_tile(
                block, i, y, j0, column_end, scale, classes, total, largest, columns_ptr, maxima, own, False, D, HOW,
                TILE,
            )  # fmt: skip
        if FIXED:
            row_sum = tl.sum(total, axis=0)
        else:
            row_sum, row_max = sum_exponentials(total, largest, 0)
        i = as_anchors(load_facts(x, offs_i, N, HOW), x, offs_i, (mined_ptr, seed_ptr))
        first, last, whole = rows_of_block(x_facts_ptr, i0, N, BLOCK_M)
        whole = without_masks(whole, first, last, mined_ptr, class_weights_ptr, HOW)
        masked_at, masked_1, rest_at, masked, columns = plan_masked(
            y_facts_ptr + column_start, column_end - column_start, first, last, whole, start, BLOCK_N
        )
        y_end = column_start + columns
        total, largest = begin_sums(MASKED_N, HOW, TILE)
        for t in tl.range(0, masked * (BLOCK_N // MASKED_N), num_stages=1):
            at = pick(t // (BLOCK_N // MASKED_N), masked_at, masked_1, rest_at)
            j0 = column_start + at * BLOCK_N + t % (BLOCK_N // MASKED_N) * MASKED_N
            own = (g != c) | (j0 >= i0 + BLOCK_M)
            total, largest = sums_tile(
                block, i, y, j0, y_end, scale, classes, total, largest, columns_ptr, maxima, own, True, D, HOW, TILE,
            )  # fmt: skip
        if FIXED:
            row_sum += tl.sum(total, axis=0)
        else:
            masked_sum, masked_max = sum_exponentials(total, largest, 0)
            top = tl.maximum(row_max, masked_max)
            row_sum = row_sum * tl.exp2((row_max - top) * LOG2_E) + masked_sum * tl.exp2((masked_max - top) * LOG2_E)
            tl.store(rows_ptr + maxima + offs_i, top, mask=offs_i < row_end)
        tl.store(rows_ptr + offs_i, row_sum, mask=offs_i < row_end)
        if TRIANGLE:
            tl.debug_barrier()  # the next rows add to the same columns


@triton.jit
def log_of_sums(sums_ptr, offs_i, here, N, slots, BLOCK_M: tl.constexpr, HOW: tl.constexpr):
    """log of the sums of all slots, -inf for an empty one."""
    total = tl.zeros([BLOCK_M], tl.float32)
    largest = tl.full([BLOCK_M], NOTHING, tl.float32)
    for start in range(0, slots, SLOTS):
        slot = start + tl.arange(0, SLOTS)
        at = slot.to(tl.int64)[:, None] * N + offs_i[None, :]
        there = (slot < slots)[:, None] & here[None, :]
        sums = tl.load(sums_ptr + at, mask=there, other=0.0)  # [SLOTS, BLOCK_M]
        if has(HOW, "fixed"):
            total += tl.sum(sums, axis=0)
        else:
            maxima = tl.load(sums_ptr + tl.cast(slots, tl.int64) * N + at, mask=there, other=NOTHING)
            top = tl.maximum(largest, tl.max(maxima, axis=0))
            total *= tl.exp2((largest - top) * LOG2_E)
            total += tl.sum(sums * tl.exp2((maxima - top[None, :]) * LOG2_E), axis=0)
            largest = top
    log_sum = tl.log2(total) * LN_2
    if not has(HOW, "fixed"):
        log_sum += largest
    return tl.where(total > 0, log_sum, tl.where(total == total, float("-inf"), total))


@triton.jit
def info_nce_log_sums_kernel(
    sums_ptr, facts_ptr, temperature_ptr, log_sum_ptr, N, slots, HOW: tl.constexpr, BLOCK_M: tl.constexpr
):
    """log Z of every row, to where it came from."""
    tl.device_assert(is_temperature(tl.load(temperature_ptr)), "temperature: not a number > 0 from 2^-126 on")
    offs_i = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    here = offs_i < N
    log_sum = log_of_sums(sums_ptr, offs_i, here, N, slots, BLOCK_M, HOW)
    log_sum = tl.where(left_out(load_keys(facts_ptr, offs_i, N)), float("-inf"), log_sum)
    to = offs_i
    if has(HOW, "x_moved"):
        to = tl.load(facts_ptr + N + offs_i, mask=here, other=0)
    tl.store(log_sum_ptr + to, log_sum, mask=here)


@triton.jit
def info_nce_positives_kernel(
    x_ptr, x_facts_ptr, N, x_first, y_ptr, y_facts_ptr, M, y_first, temperature_ptr, mined_ptr, seed_ptr, sums_ptr,
    slots, loss_ptr, log_sum_ptr, weight_ptr, mass_ptr, D: tl.constexpr, HOW: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """log Z of a block of rows from its partial sums, then the means over their positives: a sweep over the blocks of
    their classes only. Without sums log Z comes from outside, and sums are wanted instead of means."""
    BLOCK_M: tl.constexpr = size(TILE, "BLOCK_M")
    BLOCK_N: tl.constexpr = size(TILE, "BLOCK_N")
    GIVEN: tl.constexpr = sums_ptr is None
    NEGATIVES: tl.constexpr = has(HOW, "negatives")
    DECOUPLED: tl.constexpr = has(HOW, "decoupled")
    WEIGHTED: tl.constexpr = has(HOW, "y_weighted")
    x = set_of_rows(x_ptr, x_facts_ptr, N, x_first, None, HOW, "x")
    y = set_of_rows(y_ptr, y_facts_ptr, M, y_first, None, HOW, "y")
    i0 = tl.program_id(0) * BLOCK_M
    offs_i = i0 + tl.arange(0, BLOCK_M)
    here = offs_i < N
    keys_i = load_keys(x_facts_ptr, offs_i, N)
    part = left_out(keys_i) == 0
    if GIVEN:
        log_sum = tl.load(log_sum_ptr + places_of(x, offs_i), mask=here, other=float("-inf"))
    else:
        log_sum = log_of_sums(sums_ptr, offs_i, here, N, slots, BLOCK_M, HOW)
        log_sum = tl.where(part, log_sum, float("-inf"))
    block = load_block(x_ptr, i0, i0 + taking_part(keys_i), D, HOW, TILE)
    scale = 1.0 / tl.load(temperature_ptr)
    first, last, _whole = rows_of_block(x_facts_ptr, i0, N, BLOCK_M)
    before, begun, _full, y_end = blocks_between(y_facts_ptr, M, first, last, BLOCK_N)
    i = as_anchors(load_facts(x, offs_i, N, HOW), x, offs_i, (mined_ptr, seed_ptr))
    losses = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    weights = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    masses = tl.zeros([BLOCK_M, BLOCK_N], tl.float32 if WEIGHTED else tl.int32)
    for t in tl.range(before, tl.minimum(begun, tl.cdiv(y_end, BLOCK_N)), num_stages=size(TILE, "STAGES")):
        offs_j = t * BLOCK_N + tl.arange(0, BLOCK_N)
        s, _ = products(block, y_ptr, t * BLOCK_N, y_end, True, BLOCK_N, D, HOW, TILE)
        logit = rounded_product(s, scale)
        j = as_columns(load_facts(y, offs_j, M, HOW))
        positive = is_positive(s, as_rows(i), j, HOW)
        if NEGATIVES:
            softplus, sigmoid = softplus_sigmoid(log_sum[:, None] - logit)
            losses += tl.where(positive, weighed(softplus, j[4]), 0.0)
            weights += tl.where(positive, weighed(sigmoid, j[4]), 0.0)
        elif GIVEN:
            margin = log_sum[:, None] - logit
            if DECOUPLED or WEIGHTED:
                margin = tl.where((log_sum == float("-inf"))[:, None], logit * 0.0, margin)
            losses += tl.where(positive, weighed(margin, j[4]), 0.0)
        else:
            losses += tl.where(positive, weighed(logit, j[4]), 0.0)
        if WEIGHTED:
            masses += tl.where(positive, j[4], 0.0)
        else:
            masses += positive.to(tl.int32)
    mass = tl.where(part, tl.sum(masses, axis=1), 0)
    if WEIGHTED:
        mean = 1.0 / tl.where(mass > 0, mass, 1.0)
    else:
        mean = 1.0 / tl.maximum(mass, 1).to(tl.float32)
    if GIVEN:
        mean = tl.full([BLOCK_M], 1.0, tl.float32)
    loss = tl.sum(losses, axis=1) * mean
    if not NEGATIVES and not GIVEN:
        if DECOUPLED:
            loss = tl.where(log_sum == float("-inf"), loss * 0.0, log_sum - loss)
        else:
            loss = log_sum - loss
    counts = mass > 0
    if GIVEN and WEIGHTED:  # a positive that is NaN and weighs nothing is NaN all the same
        counts = part
    loss = tl.where(counts, loss, 0.0)
    weight = tl.where(counts, tl.sum(weights, axis=1) * mean, 0.0)
    to = offs_i
    if has(HOW, "x_moved"):
        to = tl.load(x_facts_ptr + N + offs_i, mask=here, other=0)
    tl.store(loss_ptr + to, loss, mask=here)
    if not GIVEN:
        tl.store(log_sum_ptr + to, log_sum, mask=here)
    tl.store(weight_ptr + to, weight, mask=here)
    tl.store(mass_ptr + to, mass.to(tl.float32), mask=here)
