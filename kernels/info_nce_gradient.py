"""Backward kernels of info_nce: what every anchor brings along, then dL/ds times rows, a block of rows at a time."""

import triton
import triton.language as tl

from fastpixcon.kernels.common import (
    LEAST_ROWS,
    LOG2_E,
    cast,
    dot,
    is_temperature,
    rounded_product,
    softplus_sigmoid,
)
from fastpixcon.kernels.info_nce_blocks import (
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
from fastpixcon.kernels.info_nce_pairs import BATCH_STREAM, draw_keys, is_kept, load_mined, numbers_of


@triton.jit
def info_nce_terms_kernel(
    d_loss_ptr, log_sum_ptr, weight_ptr, num_positives_ptr, source_ptr, temperature_ptr, largest_ptr, terms_ptr, N,
    stride_d,
    NEGATIVES: tl.constexpr, FIXED: tl.constexpr, SORTED: tl.constexpr, SCALED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of every row as an anchor, in sorted order, [3, N]: the weight of e^s (FIXED) or of e^(s - log Z) in dL/ds, the
    pull of each positive, and 1 / Z (FIXED) or log Z."""
    # Not in the kernels of tiles: that they might call what prints it makes ptxas serialise wgmma.
    tl.device_assert(is_temperature(tl.load(temperature_ptr)), "temperature: not a number > 0 from 2^-126 on")
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = offs < N
    at = offs
    if SORTED == 0:
        at = tl.load(source_ptr + offs, mask=here, other=0)
    d_loss = tl.load(d_loss_ptr + at * stride_d, mask=here, other=0.0)
    log_sum = tl.load(log_sum_ptr + at, mask=here, other=float("-inf"))
    count = tl.load(num_positives_ptr + at, mask=here, other=0)
    if SCALED:  # float16 has no exponents for means over many anchors
        largest = tl.load(largest_ptr)
        d_loss = tl.where(largest > 0, d_loss * (4096.0 / largest), 0.0)
    counts = (count > 0) & (log_sum != float("-inf"))
    weight = d_loss
    if NEGATIVES:
        weight *= tl.load(weight_ptr + at, mask=here, other=0.0)
    if FIXED:
        inv_sum = tl.where(counts, tl.exp2(-log_sum * LOG2_E), 0.0)
        weight *= inv_sum
        tl.store(terms_ptr + 2 * N + offs, inv_sum, mask=here)
    else:
        tl.store(terms_ptr + 2 * N + offs, tl.where(counts, log_sum, float("inf")), mask=here)
    tl.store(terms_ptr + offs, tl.where(counts, weight, 0.0), mask=here)
    tl.store(terms_ptr + N + offs, tl.where(counts, d_loss / count.to(tl.float32), 0.0), mask=here)


@triton.jit
def terms_of(terms_ptr, offs, n, here, ANCHORS: tl.constexpr, FIXED: tl.constexpr, MASKED: tl.constexpr):
    """Weight, pull and 1 / Z or log Z of rows; zeros of what is not used."""
    weight = tl.zeros_like(offs).to(tl.float32)
    pull = weight
    sum_term = weight
    if ANCHORS:
        weight = tl.load(terms_ptr + offs, mask=here, other=0.0)
        if MASKED:
            pull = tl.load(terms_ptr + n + offs, mask=here, other=0.0)
        if MASKED or not FIXED:
            sum_term = tl.load(terms_ptr + 2 * n + offs, mask=here, other=0.0 if FIXED else float("inf"))
    return weight, pull, sum_term


@triton.jit
def push(x, e, weight, sum_term, FIXED: tl.constexpr):
    """weight * e^s / Z."""
    if FIXED:
        return e * weight
    else:
        return weight * tl.exp2((x - sum_term) * LOG2_E)


@triton.jit
def pull_of(x, e, pull, sum_term, NEGATIVES: tl.constexpr, FIXED: tl.constexpr):
    """What a positive's logit is pulled by: pull * Z / (Z + e^s), or pull."""
    if not NEGATIVES:
        return pull + tl.zeros_like(x)
    elif FIXED:
        return pull / (1.0 + e * sum_term)
    else:
        return pull * softplus_sigmoid(sum_term - x)[1]


@triton.jit
def role(x, e, same, weight, pull, sum_term, NEGATIVES: tl.constexpr, FIXED: tl.constexpr):
    """dL/ds of a tile of the rows, or of the columns, as anchors."""
    h = push(x, e, weight, sum_term, FIXED)
    if NEGATIVES:
        return tl.where(same, -pull_of(x, e, pull, sum_term, NEGATIVES, FIXED), h)
    else:
        return h - tl.where(same, pull_of(x, e, pull, sum_term, NEGATIVES, FIXED), 0.0)


@triton.jit
def gradient_tile(
    a, x_ptr, i0, x_end, keys_i, weight_i, pull_i, sum_i, number_i, x_first, N, y_ptr, y_labels_ptr, terms_ptr,
    y_source_ptr, y_first, mined_ptr, seed_ptr, j0, M, y_end, D: tl.constexpr, scale, d_x,
    MASKED: tl.constexpr, SELF: tl.constexpr, DIAGONAL: tl.constexpr, MINED: tl.constexpr, Y_SORTED: tl.constexpr,
    X_ANCHORS: tl.constexpr, Y_ANCHORS: tl.constexpr,
    NEGATIVES: tl.constexpr, FIXED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """d_x + H y with H = dL/ds of a tile: of the rows as anchors, of the columns as anchors, or of both."""
    offs_j = j0 + tl.arange(0, BLOCK_N)
    if BLOCK_K == BLOCK_D:
        y = load_rows(y_ptr, j0, y_end, D, MASKED, BLOCK_N, BLOCK_D)
        s = dot(a, tl.trans(y), tl.zeros([BLOCK_M, BLOCK_N], tl.float32), PRECISION)
    else:
        s = products_in_parts(x_ptr, i0, x_end, y_ptr, j0, y_end, D, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K, STAGES)
    x = s
    e = s
    if FIXED:
        e = tl.exp2(s * (scale * LOG2_E))
    else:
        x = rounded_product(s, scale)
    weight_j, pull_j, sum_j = terms_of(terms_ptr, offs_j, M, offs_j < y_end, Y_ANCHORS, FIXED, MASKED)
    if MINED:
        h = s
    elif X_ANCHORS and Y_ANCHORS and FIXED:
        h = e * (weight_i[:, None] + weight_j[None, :])
    elif X_ANCHORS and Y_ANCHORS:
        h = push(x, e, weight_i[:, None], sum_i[:, None], FIXED)
        h += push(x, e, weight_j[None, :], sum_j[None, :], FIXED)
    elif X_ANCHORS:
        h = push(x, e, weight_i[:, None], sum_i[:, None], FIXED)
    else:
        h = push(x, e, weight_j[None, :], sum_j[None, :], FIXED)
    if MASKED:
        keys_j = load_keys(y_labels_ptr, offs_j, y_end)
        same = keys_i[:, None] == keys_j[None, :]
        number_j = numbers_of(y_source_ptr, y_first, offs_j, y_end, Y_SORTED, DIAGONAL or MINED)
        if MINED:  # what an anchor keeps of its pairs, other anchors may not
            h = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
            if X_ANCHORS:
                here = (i0 + tl.arange(0, BLOCK_M)) < N
                least, most, negative_share, positive_share = load_mined(mined_ptr, number_i - x_first, N, here, MINED)
                key = draw_keys(seed_ptr, number_i, BATCH_STREAM, MINED)
                keep = is_kept(
                    s, same, key[:, None], number_j[None, :], least[:, None], most[:, None], negative_share[:, None],
                    positive_share[:, None],
                )  # fmt: skip
                of_rows = role(x, e, same, weight_i[:, None], pull_i[:, None], sum_i[:, None], NEGATIVES, FIXED)
                h += tl.where(keep, of_rows, 0.0)
            if Y_ANCHORS:
                least, most, negative_share, positive_share = load_mined(
                    mined_ptr, number_j - y_first, M, offs_j < M, MINED
                )
                key = draw_keys(seed_ptr, number_j, BATCH_STREAM, MINED)
                keep = is_kept(
                    s, same, key[None, :], number_i[:, None], least[None, :], most[None, :], negative_share[None, :],
                    positive_share[None, :],
                )  # fmt: skip
                of_columns = role(x, e, same, weight_j[None, :], pull_j[None, :], sum_j[None, :], NEGATIVES, FIXED)
                h += tl.where(keep, of_columns, 0.0)
        else:
            pull = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
            if X_ANCHORS:
                pull += pull_of(x, e, pull_i[:, None], sum_i[:, None], NEGATIVES, FIXED)
            if Y_ANCHORS:
                pull += pull_of(x, e, pull_j[None, :], sum_j[None, :], NEGATIVES, FIXED)
            if NEGATIVES:
                h = tl.where(same, -pull, h)
            else:
                h -= tl.where(same, pull, 0.0)
        if DIAGONAL:
            h = tl.where(number_i[:, None] != number_j[None, :], h, 0.0)
        if SELF:
            h = tl.where((i0 + tl.arange(0, BLOCK_M))[:, None] != offs_j[None, :], h, 0.0)
        if not FIXED:  # rows left out are zeros, but e^0 may be infinitely more than Z
            h = tl.where((left_out(keys_i) == 0)[:, None] & (left_out(keys_j) == 0)[None, :], h, 0.0)
    if BLOCK_K == BLOCK_D:
        return dot(cast(h, y.dtype), y, d_x, PRECISION)
    elif BLOCK_D < 512 or BLOCK_N // 2 < LEAST_ROWS:
        y = load_rows(y_ptr, j0, y_end, D, MASKED, BLOCK_N, BLOCK_D)
        return dot(h, y, d_x, PRECISION)
    else:  # half of the rows at a time, in a loop that keeps both halves from the registers
        HALF: tl.constexpr = BLOCK_N // 2
        halves = h.reshape(BLOCK_M, 2, HALF)
        for t in tl.range(0, 2, num_stages=STAGES):
            part = tl.sum(tl.where((tl.arange(0, 2) == t)[None, :, None], halves, 0.0), axis=1)  # [BLOCK_M, HALF]
            y = load_rows(y_ptr, j0 + t * HALF, y_end, D, MASKED, HALF, BLOCK_D)
            d_x = dot(part, y, d_x, PRECISION)
        return d_x


@triton.jit
def info_nce_gradient_kernel(
    x_ptr, x_labels_ptr, x_terms_ptr, y_ptr, y_labels_ptr, y_terms_ptr, source_ptr, temperature_ptr, largest_ptr,
    d_x_ptr, N, M, x_source_ptr, y_source_ptr, x_first, y_first, mined_ptr, seed_ptr, D_OUT: tl.constexpr,
    D: tl.constexpr, SELF: tl.constexpr, DIAGONAL: tl.constexpr, MINED: tl.constexpr, X_SORTED: tl.constexpr,
    Y_SORTED: tl.constexpr, X_ANCHORS: tl.constexpr,
    Y_ANCHORS: tl.constexpr, NEGATIVES: tl.constexpr, FIXED: tl.constexpr, SORTED: tl.constexpr, SCALED: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, MASKED_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, CHUNK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Gradient of a block of rows of x [N, D], written once, to where the rows came from: a sweep over all rows of y.

    Self contrast: H is symmetric, so H x is the whole gradient; the triangle would save a quarter of the FLOP here, at
    the price of adding [BLOCK_N, D] floats a tile to rows of other programs, in turn or without a fixed order.
    """
    i0 = tl.program_id(0) * BLOCK_M
    offs_i = i0 + tl.arange(0, BLOCK_M)
    here = offs_i < N
    x_end = i0 + taking_part(load_keys(x_labels_ptr, offs_i, N))
    a = offs_i
    if BLOCK_K == BLOCK_D:
        a = load_rows(x_ptr, i0, x_end, D, True, BLOCK_M, BLOCK_D)  # [BLOCK_M, BLOCK_D]
    weight_i, pull_i, sum_i = terms_of(x_terms_ptr, offs_i, N, here, X_ANCHORS, FIXED, False)
    scale = 1.0 / tl.load(temperature_ptr)
    first, last, whole = rows_of_block(x_labels_ptr, i0, N, BLOCK_M)
    if MINED:  # masks everywhere
        whole = whole & False
    plain_1, plain_at, plain = plan_plain(y_labels_ptr, M, first, last, whole, 0, BLOCK_N, CHUNK)
    d_x = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for t in tl.range(0, plain, num_stages=STAGES):
        j0 = pick(t, 0, plain_1, plain_at) * BLOCK_N
        d_x = gradient_tile(
            a, x_ptr, i0, x_end, offs_i, weight_i, pull_i, sum_i, offs_i, x_first, N, y_ptr, y_labels_ptr, y_terms_ptr,
            y_source_ptr, y_first, mined_ptr, seed_ptr, j0, M, M, D, scale, d_x, False, SELF, False, False, Y_SORTED,
            X_ANCHORS, Y_ANCHORS, NEGATIVES, FIXED, PRECISION, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_K, STAGES,
        )  # fmt: skip
    keys_i = load_keys(x_labels_ptr, offs_i, N)
    weight_i, pull_i, sum_i = terms_of(x_terms_ptr, offs_i, N, here, X_ANCHORS, FIXED, True)
    first, last, whole = rows_of_block(x_labels_ptr, i0, N, BLOCK_M)
    if MINED:  # masks everywhere
        whole = whole & False
    number_i = numbers_of(x_source_ptr, x_first, offs_i, N, X_SORTED, DIAGONAL or MINED)
    masked_at, masked_1, rest_at, masked, y_end = plan_masked(
        y_labels_ptr, M, first, last, whole, 0, BLOCK_N, CHUNK
    )  # fmt: skip
    for t in tl.range(0, masked * (BLOCK_N // MASKED_N), num_stages=1):
        block = pick(t // (BLOCK_N // MASKED_N), masked_at, masked_1, rest_at)
        j0 = block * BLOCK_N + t % (BLOCK_N // MASKED_N) * MASKED_N
        d_x = gradient_tile(
            a, x_ptr, i0, x_end, keys_i, weight_i, pull_i, sum_i, number_i, x_first, N, y_ptr, y_labels_ptr,
            y_terms_ptr, y_source_ptr, y_first, mined_ptr, seed_ptr, j0, M, y_end, D, scale, d_x, True, SELF, DIAGONAL,
            MINED, Y_SORTED, X_ANCHORS, Y_ANCHORS, NEGATIVES, FIXED, PRECISION, BLOCK_M, MASKED_N, BLOCK_D, BLOCK_K,
            STAGES,
        )  # fmt: skip
    if SCALED:
        scale *= tl.load(largest_ptr) * (1.0 / 4096.0)
    d_x *= tl.where(left_out(keys_i), 0.0, scale)[:, None]
    to = offs_i
    if SORTED == 0:
        to = tl.load(source_ptr + offs_i, mask=here, other=0)
    offs_d = tl.arange(0, BLOCK_D)
    out = d_x_ptr + to.to(tl.int64)[:, None] * D_OUT + offs_d[None, :]
    tl.store(out, cast(d_x, d_x_ptr.dtype.element_ty), mask=here[:, None] & (offs_d < D_OUT)[None, :])


@triton.jit
def info_nce_project_kernel(
    d_unit_ptr, x_ptr, source_ptr, inv_norm_ptr, d_x_ptr, along_ptr, N, D_OUT, D: tl.constexpr, SORTED: tl.constexpr,
    RAW: tl.constexpr, ALONG: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """From gradients of sorted rows, [N, D] float32, those of the rows as they came, [N, D_OUT]: for RAW rows e of unit
    rows r, (d - (d.r) r) / |e|. And d.r, whose sum is the temperature's gradient."""
    n0 = tl.program_id(0) * BLOCK_N
    offs_n = n0 + tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    here = offs_n < N
    d = load_rows(d_unit_ptr, n0, N, D, True, BLOCK_N, BLOCK_D)
    rows = load_rows(x_ptr, n0, N, D, True, BLOCK_N, BLOCK_D).to(tl.float32)
    along = tl.sum(tl.where(d == 0.0, 0.0, d * rows), axis=1)  # a row left out may hold anything
    if ALONG:
        tl.store(along_ptr + offs_n, along, mask=here)
    if RAW:
        inv_norm = tl.load(inv_norm_ptr + offs_n, mask=here, other=0.0)
        d = tl.where(d == 0.0, d, (d - along[:, None] * rows) * inv_norm[:, None])
    to = offs_n
    if SORTED == 0:
        to = tl.load(source_ptr + offs_n, mask=here, other=0)
    out = d_x_ptr + to.to(tl.int64)[:, None] * D_OUT + offs_d[None, :]
    tl.store(out, cast(d, d_x_ptr.dtype.element_ty), mask=here[:, None] & (offs_d < D_OUT)[None, :])
