"""Backward kernels of info_nce: what every anchor brings along, then dL/ds times rows, a block of rows at a time."""

import triton
import triton.language as tl

from fastpixcon.kernels.common import (
    LOG2_E,
    cast,
    has,
    is_temperature,
    rounded_product,
    size,
    softplus_sigmoid,
)
from fastpixcon.kernels.info_nce_blocks import (
    add_rows,
    begin_rows,
    left_out,
    load_block,
    load_keys,
    load_rows,
    pick,
    plan_masked,
    plan_plain,
    products,
    rows_of_block,
    taking_part,
)
from fastpixcon.kernels.info_nce_halves import MOST, UNIT, load_joined, number_of_chunks, width_of_chunk
from fastpixcon.kernels.info_nce_pairs import (
    as_anchors,
    as_column,
    as_columns,
    as_row,
    as_rows,
    is_kept,
    let_by_groups,
    load_facts,
    load_weight,
    places_of,
    set_of_rows,
    take_part,
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


@triton.jit
def info_nce_terms_kernel(
    d_loss_ptr, log_sum_ptr, weight_ptr, mass_ptr, facts_ptr, temperature_ptr, largest_ptr, terms_ptr, N,
    stride_d, HOW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of every row as an anchor, in sorted order, [3, N]: the weight of e^s (fixed) or of e^(s - log Z) in dL/ds, the
    pull of each positive, and 1 / Z (fixed) or log Z. For halves of float32 three more, with which H is as exact in a
    row of small d_loss as in any: weight and pull for d_loss = MOST, and d_loss."""
    # Not in the kernels of tiles: that they might call what prints it makes ptxas serialise wgmma.
    tl.device_assert(is_temperature(tl.load(temperature_ptr)), "temperature: not a number > 0 from 2^-126 on")
    rows = set_of_rows(None, facts_ptr, N, None, None, HOW, "x")
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = offs < N
    at = places_of(rows, offs)
    d_loss = tl.load(d_loss_ptr + at * stride_d, mask=here, other=0.0)
    log_sum = tl.load(log_sum_ptr + at, mask=here, other=float("-inf"))
    mass = tl.load(mass_ptr + at, mask=here, other=0.0)
    counts = (mass > 0) & (log_sum != float("-inf"))
    share = tl.full([BLOCK], 1.0, tl.float32)
    if has(HOW, "negatives"):
        share = tl.load(weight_ptr + at, mask=here, other=0.0)
    if has(HOW, "fixed"):
        inv_sum = tl.where(counts, tl.exp2(-log_sum * LOG2_E), 0.0)
        share *= inv_sum
        tl.store(terms_ptr + 2 * N + offs, inv_sum, mask=here)
    else:
        tl.store(terms_ptr + 2 * N + offs, tl.where(counts, log_sum, float("inf")), mask=here)
    if has(HOW, "fp16x3"):
        tl.store(terms_ptr + 3 * N + offs, tl.where(counts, MOST * share, 0.0), mask=here)
        tl.store(terms_ptr + 4 * N + offs, tl.where(counts, MOST / mass, 0.0), mask=here)
        tl.store(terms_ptr + 5 * N + offs, tl.where(counts, d_loss, 0.0), mask=here)
    if largest_ptr is not None:
        largest = tl.load(largest_ptr)
        d_loss = tl.where(largest != 0, d_loss * (MOST / largest), 0.0)
    tl.store(terms_ptr + offs, tl.where(counts, d_loss * share, 0.0), mask=here)
    tl.store(terms_ptr + N + offs, tl.where(counts, d_loss / mass, 0.0), mask=here)


@triton.jit
def load_terms(rows, offs, here, MASKED: tl.constexpr, ALONE: tl.constexpr, HOW: tl.constexpr):
    """Weight, pull and 1 / Z or log Z of rows as anchors; zeros of what is not used. None if they are no anchors.
    ALONE: they are the only ones, and of halves of float32 have d_loss = MOST."""
    n, terms_ptr = rows[3], rows[5]
    FIRST: tl.constexpr = 3 if ALONE and has(HOW, "fp16x3") else 0
    if terms_ptr is None:
        return None
    else:
        weight = tl.load(terms_ptr + FIRST * n + offs, mask=here, other=0.0)
        pull = tl.zeros_like(weight)
        sum_term = pull
        if MASKED:
            pull = tl.load(terms_ptr + (FIRST + 1) * n + offs, mask=here, other=0.0)
        if MASKED or not has(HOW, "fixed"):
            nothing = 0.0 if has(HOW, "fixed") else float("inf")
            sum_term = tl.load(terms_ptr + 2 * n + offs, mask=here, other=nothing)
        return weight, pull, sum_term


@triton.jit
def terms_of_rows(terms):
    if terms is None:
        return None
    else:
        return terms[0][:, None], terms[1][:, None], terms[2][:, None]


@triton.jit
def terms_of_columns(terms):
    if terms is None:
        return None
    else:
        return terms[0][None, :], terms[1][None, :], terms[2][None, :]


@triton.jit
def weighed_terms(terms, factor, HOW: tl.constexpr):
    """With a factor of all e^s in their sums."""
    if terms is None or factor is None:
        return terms
    elif has(HOW, "fixed"):
        return terms[0] * factor, terms[1], terms[2]
    else:
        return terms[0], terms[1], terms[2] - factor


@triton.jit
def push_of(x, e, anchor, factor, HOW: tl.constexpr):
    """What a logit in Z is pushed by: weight * e^s / Z, with the factor of the pair."""
    weight, _, sum_term = anchor
    if has(HOW, "fixed"):
        return e * times(weight, factor, HOW)
    else:
        return weight * tl.exp2((x - without(sum_term, factor)) * LOG2_E)


@triton.jit
def pull_of(x, e, anchor, weight, HOW: tl.constexpr):
    """What a positive's logit is pulled by: pull * Z / (Z + e^s), or pull, times its weight."""
    pull, sum_term = weighed(anchor[1], weight), anchor[2]
    if not has(HOW, "negatives"):
        return pull + tl.zeros_like(x)
    elif has(HOW, "fixed"):
        return pull / (1.0 + e * sum_term)
    else:
        return pull * softplus_sigmoid(sum_term - x)[1]


@triton.jit
def push_of_both(x, e, i, j, by_rows, by_columns, HOW: tl.constexpr):
    """Of rows and columns as anchors, of those that are, with the factors of the pairs in their sums."""
    if j is None:
        return push_of(x, e, i, by_rows, HOW)
    elif i is None:
        return push_of(x, e, j, by_columns, HOW)
    elif has(HOW, "fixed"):
        return e * (times(i[0], by_rows, HOW) + times(j[0], by_columns, HOW))
    else:
        return push_of(x, e, i, by_rows, HOW) + push_of(x, e, j, by_columns, HOW)


@triton.jit
def pull_of_both(x, e, i, j, weight_i, weight_j, HOW: tl.constexpr):
    """The weights are those of rows and columns as positives of each other."""
    pull = tl.zeros_like(x)
    if i is not None:
        pull += pull_of(x, e, i, weight_j, HOW)
    if j is not None:
        pull += pull_of(x, e, j, weight_i, HOW)
    return pull


@triton.jit
def kept_of(s, x, e, same, terms, anchor, other, classes, HOW: tl.constexpr):
    """dL/ds of the pairs that mining lets anchors keep: what one keeps of its pairs, other anchors may not."""
    factor = weight_in_sum(anchor, other, classes, HOW)
    if has(HOW, "apart"):
        h = tl.where(same, -pull_of(x, e, terms, other[4], HOW), push_of(x, e, terms, factor, HOW))
    else:
        h = push_of(x, e, terms, factor, HOW) - tl.where(same, pull_of(x, e, terms, other[4], HOW), 0.0)
    return tl.where(is_kept(s, same, anchor, other), h, 0.0)


@triton.jit
def weights_of_pairs(i, y, offs_j, y_end, classes, MASKED: tl.constexpr, HOW: tl.constexpr):
    """Factors of the pairs of a tile in sums of its rows, in sums of its columns; and of all pairs of a column in its
    sum, [BLOCK_N]."""
    if MASKED and not (has(HOW, "x_weighted") or has(HOW, "y_weighted") or classes[0] is not None):
        return None, None, None
    elif MASKED:
        j = load_facts(y, offs_j, y_end, HOW)
        return (
            weight_in_sum(as_rows(i), as_columns(j), classes, HOW),
            weight_in_sum(as_columns(j), as_rows(i), classes, HOW),
            None,
        )
    else:
        of_j, of_i, of_columns = plain_weights(i, load_plain(y, offs_j, y_end, classes, HOW), classes, HOW)
        return as_column(of_j), as_row(of_i), of_columns


@triton.jit
def gradient_tile(
    block, i, terms_i, x, y, j0, y_end, scale, classes, mining, d_x, MASKED: tl.constexpr, D: tl.constexpr,
    HOW: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """d_x + H y with H = dL/ds of a tile: of the rows as anchors, of the columns as anchors, or of both.

    i, terms_i: facts of the rows, or what a tile without masks asks of them, and their terms."""
    BLOCK_N: tl.constexpr = size(TILE, "MASKED_N") if MASKED else size(TILE, "BLOCK_N")
    offs_j = j0 + tl.arange(0, BLOCK_N)
    s, rows = products(block, y[0], j0, y_end, MASKED, BLOCK_N, D, HOW, TILE)
    logit = s
    e = s
    if has(HOW, "fixed"):
        e = tl.exp2(s * (scale * LOG2_E))
    else:
        logit = rounded_product(s, scale)
    by_rows = terms_of_rows(terms_i)
    seen_by_rows, seen_by_columns, of_columns = weights_of_pairs(i, y, offs_j, y_end, classes, MASKED, HOW)
    terms_j = load_terms(y, offs_j, offs_j < y_end, MASKED, False, HOW)
    by_columns = terms_of_columns(weighed_terms(terms_j, of_columns, HOW))
    h = s
    if mining[0] is None:
        h = push_of_both(logit, e, by_rows, by_columns, seen_by_rows, seen_by_columns, HOW)
    if MASKED:
        j = load_facts(y, offs_j, y_end, HOW)
        same = i[0][:, None] == j[0][None, :]
        if mining[0] is not None:
            h = tl.zeros_like(s)
            if by_rows is not None:
                anchor = as_anchors(i, x, block[1] + tl.arange(0, size(TILE, "BLOCK_M")), mining)
                h += kept_of(s, logit, e, same, by_rows, as_rows(anchor), as_columns(j), classes, HOW)
            if by_columns is not None:
                anchor = as_anchors(j, y, offs_j, mining)
                h += kept_of(s, logit, e, same, by_columns, as_columns(anchor), as_rows(i), classes, HOW)
        elif has(HOW, "apart"):
            h = tl.where(same, -pull_of_both(logit, e, by_rows, by_columns, as_row(i[4]), as_column(j[4]), HOW), h)
        else:
            h -= tl.where(same, pull_of_both(logit, e, by_rows, by_columns, as_row(i[4]), as_column(j[4]), HOW), 0.0)
        if has(HOW, "diagonal"):
            h = tl.where(i[1][:, None] != j[1][None, :], h, 0.0)
        if i[3] is not None:
            h = tl.where(let_by_groups(same | True, same, as_row(i[3]), as_column(j[3]), HOW), h, 0.0)
        # rows left out are zeros, but e^0 may be infinitely more than Z, and their classes have no weights
        if not has(HOW, "fixed") or classes[0] is not None:
            h = tl.where(take_part(as_rows(i), as_columns(j)), h, 0.0)
    return add_rows(h, rows, y[0], j0, y_end, MASKED, D, d_x, HOW, TILE)


@triton.jit
def info_nce_gradient_kernel(
    x_ptr, x_facts_ptr, N, x_first, x_terms_ptr, y_ptr, y_facts_ptr, M, y_first, y_terms_ptr, temperature_ptr,
    class_weights_ptr, K, mined_ptr, seed_ptr, largest_ptr, d_x_ptr, D_OUT: tl.constexpr, D: tl.constexpr,
    HOW: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Gradient of a block of rows of x [N, D], written once, as they lie or, "home", to where they came from: a sweep
    over all rows of y.

    Self contrast: H is symmetric, so H x is the whole gradient; the triangle would save a quarter of the FLOP here, at
    the price of adding [BLOCK_N, D] floats a tile to rows of other programs, in turn or without a fixed order.
    """
    BLOCK_M: tl.constexpr = size(TILE, "BLOCK_M")
    BLOCK_N: tl.constexpr = size(TILE, "BLOCK_N")
    MASKED_N: tl.constexpr = size(TILE, "MASKED_N")
    WIDTH: tl.constexpr = width_of_chunk(HOW, TILE)
    ALONE: tl.constexpr = y_terms_ptr is None
    x = set_of_rows(x_ptr, x_facts_ptr, N, x_first, x_terms_ptr, HOW, "x")
    y = set_of_rows(y_ptr, y_facts_ptr, M, y_first, y_terms_ptr, HOW, "y")
    classes = (class_weights_ptr, K)
    mining = (mined_ptr, seed_ptr)
    i0 = tl.program_id(0) * BLOCK_M
    offs_i = i0 + tl.arange(0, BLOCK_M)
    here = offs_i < N
    block = load_block(x_ptr, i0, i0 + taking_part(load_keys(x_facts_ptr, offs_i, N)), D, HOW, TILE)
    terms_i = load_terms(x, offs_i, here, False, ALONE, HOW)
    scale = 1.0 / tl.load(temperature_ptr)
    first, last, whole = rows_of_block(x_facts_ptr, i0, N, BLOCK_M)
    whole = without_masks(whole, first, last, mined_ptr, class_weights_ptr, HOW)
    plain_1, plain_at, plain = plan_plain(y_facts_ptr, M, first, last, whole, 0, BLOCK_N)
    i = first, as_factor(load_weight(x, offs_i, N, 1), HOW)
    d_x = begin_rows(D, HOW, TILE)
    for t in tl.range(0, plain, num_stages=size(TILE, "STAGES")):
        j0 = pick(t, 0, plain_1, plain_at) * BLOCK_N
        d_x = gradient_tile(block, i, terms_i, x, y, j0, M, scale, classes, mining, d_x, False, D, HOW, TILE)
    i = load_facts(x, offs_i, N, HOW)
    terms_i = load_terms(x, offs_i, here, True, ALONE, HOW)
    first, last, whole = rows_of_block(x_facts_ptr, i0, N, BLOCK_M)
    whole = without_masks(whole, first, last, mined_ptr, class_weights_ptr, HOW)
    masked_at, masked_1, rest_at, masked, y_end = plan_masked(y_facts_ptr, M, first, last, whole, 0, BLOCK_N)
    for t in tl.range(0, masked * (BLOCK_N // MASKED_N), num_stages=1):
        at = pick(t // (BLOCK_N // MASKED_N), masked_at, masked_1, rest_at)
        j0 = at * BLOCK_N + t % (BLOCK_N // MASKED_N) * MASKED_N
        d_x = gradient_tile(block, i, terms_i, x, y, j0, y_end, scale, classes, mining, d_x, True, D, HOW, TILE)
    if has(HOW, "fp16x3"):
        scale *= 1.0 / UNIT
    if has(HOW, "fp16x3") and ALONE:
        scale *= tl.load(x_terms_ptr + 5 * N + offs_i, mask=here, other=0.0) * (1.0 / MOST)
    elif largest_ptr is not None:
        scale *= tl.load(largest_ptr) * (1.0 / MOST)
    scale = tl.where(left_out(i[0]), 0.0, scale)[:, None]
    to = offs_i
    if has(HOW, "home") and has(HOW, "x_moved"):
        to = tl.load(x_facts_ptr + N + offs_i, mask=here, other=0)
    for c in tl.static_range(number_of_chunks(D, HOW, TILE)):
        offs_d = c * WIDTH + tl.arange(0, WIDTH)
        out = d_x_ptr + to.to(tl.int64)[:, None] * D_OUT + offs_d[None, :]
        here_d = here[:, None] & (offs_d < D_OUT)[None, :]
        tl.store(out, cast(d_x[c] * scale, d_x_ptr.dtype.element_ty), mask=here_d)


@triton.jit
def info_nce_project_kernel(
    d_unit_ptr, x_ptr, facts_ptr, inv_norm_ptr, d_x_ptr, along_ptr, N, D_OUT, D: tl.constexpr, HOW: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """From gradients of sorted rows, [N, D] float32, those of the rows as they came, [N, D_OUT]: for raw rows e, which
    have an inv_norm, of unit rows r, (d - (d.r) r) / |e|. And d.r, whose sum is the temperature's gradient."""
    n0 = tl.program_id(0) * BLOCK_N
    offs_n = n0 + tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    here = offs_n < N
    d = load_rows(d_unit_ptr, n0, N, D, True, BLOCK_N, BLOCK_D)
    if has(HOW, "fp16x3"):
        unit = load_joined(x_ptr, n0, N, D, BLOCK_N, BLOCK_D)
    else:
        unit = load_rows(x_ptr, n0, N, D, True, BLOCK_N, BLOCK_D).to(tl.float32)
    along = tl.sum(tl.where(d == 0.0, 0.0, d * unit), axis=1)  # a row left out may hold anything
    if along_ptr is not None:
        tl.store(along_ptr + offs_n, along, mask=here)
    if inv_norm_ptr is not None:
        inv_norm = tl.load(inv_norm_ptr + offs_n, mask=here, other=0.0)
        d = tl.where(d == 0.0, d, (d - along[:, None] * unit) * inv_norm[:, None])
    to = offs_n
    if has(HOW, "x_moved"):
        to = tl.load(facts_ptr + N + offs_n, mask=here, other=0)
    out = d_x_ptr + to.to(tl.int64)[:, None] * D_OUT + offs_d[None, :]
    tl.store(out, cast(d, d_x_ptr.dtype.element_ty), mask=here[:, None] & (offs_d < D_OUT)[None, :])
