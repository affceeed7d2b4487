"""The kernels of info_nce: tiles of logits, never the matrix. The launchers are in ``info_nce.py``.

Rows come sorted by label, those left out (label -1) last, so the rows that share a class with a block of rows are one
range of blocks. Blocks inside that range, and the last one if it is not full, go through a loop with masks; all others
through one without, in which every pair is a pair of negatives.

Logits are s = a.c / T in nats. Unit rows at T >= 0.025 (FIXED): |s| <= 40, so e^s neither overflows nor vanishes in
float32 and sums of e^s need no shift at all. Otherwise sums are kept relative to running maxima.
"""

import triton
import triton.language as tl
from fastpixcon.kernels.common import LN_2, LOG2_E, cast, dot, load_rows, softplus_sigmoid


@triton.jit
def key_of(label):
    """Labels in an order in which -1, left out, is the last."""
    if label.dtype == tl.int64:
        return label.to(tl.uint64)
    else:
        return label.to(tl.uint32)


@triton.jit
def left_out(key):
    if key.dtype == tl.uint64:
        return key == 0xFFFFFFFFFFFFFFFF
    else:
        return key == 0xFFFFFFFF


@triton.jit
def load_keys(labels_ptr, offs, n):
    return key_of(tl.load(labels_ptr + offs, mask=offs < n, other=-1))


@triton.jit
def rows_of_block(labels_ptr, start, n, BLOCK: tl.constexpr):
    """Keys of the first and the last row of a block, and whether all its rows take part."""
    end = tl.minimum(start + BLOCK, n)
    last = key_of(tl.load(labels_ptr + end - 1))
    return key_of(tl.load(labels_ptr + start)), last, (start + BLOCK <= n) & (left_out(last) == 0)


@triton.jit
def blocks_between(labels_ptr, n, first, last, BLOCK: tl.constexpr, CHUNK: tl.constexpr):
    """Of the blocks of n sorted rows, how many lie before class `first`; begin no later than class `last`; take part
    in full; take part at all."""
    before = 0
    begun = 0
    full = 0
    some = 0
    for start in range(0, tl.cdiv(n, BLOCK), CHUNK):
        head = (start + tl.arange(0, CHUNK)) * BLOCK
        here = head < n
        head_key = load_keys(labels_ptr, head, n)
        tail = tl.minimum(head + BLOCK, n) - 1
        tail_key = key_of(tl.load(labels_ptr + tail, mask=here, other=-1))
        before += tl.sum((here & (tail_key < first)).to(tl.int32), axis=0)
        begun += tl.sum((here & (head_key <= last)).to(tl.int32), axis=0)
        full += tl.sum((here & (head + BLOCK <= n) & (left_out(tail_key) == 0)).to(tl.int32), axis=0)
        some += tl.sum((here & (left_out(head_key) == 0)).to(tl.int32), axis=0)
    return before, begun, full, some


@triton.jit
def plan_blocks(labels_ptr, n, first, last, whole, start, BLOCK: tl.constexpr, CHUNK: tl.constexpr):
    """Which blocks from `start` on a block of rows visits, as two pairs of ranges (count of the first range, where the
    second begins, count of both): without masks [start, ..), and with masks [mask_start, ..)."""
    before, begun, full, some = blocks_between(labels_ptr, n, first, last, BLOCK, CHUNK)
    if whole == 0:  # rows left out or beyond the end: masks everywhere
        before = 0
        begun = 0
        full = 0
    before = tl.minimum(tl.maximum(before, start), some)
    begun = tl.minimum(tl.maximum(begun, before), some)
    full = tl.maximum(full, start)
    plain_1 = tl.maximum(tl.minimum(before, full) - start, 0)
    plain_2 = tl.maximum(full - begun, 0)
    rest = tl.where(before > full, full, tl.maximum(full, begun))  # the last block, not full, may lie before the range
    masked_1 = begun - before
    return plain_1, begun, plain_1 + plain_2, before, masked_1, rest, masked_1 + tl.maximum(some - rest, 0)


@triton.jit
def resident(x_ptr, offs_i, N, stride_x, D, EVEN_D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr):
    """The rows of a block, if they are kept for all its tiles."""
    if BLOCK_K == BLOCK_D:
        return load_rows(x_ptr, offs_i, N, stride_x, D, True, EVEN_D, BLOCK_D)
    else:
        return offs_i


@triton.jit
def products(
    a, x_ptr, offs_i, N, stride_x, y_ptr, offs_j, n_end, stride_y, D, MASKED: tl.constexpr, EVEN_D: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Dot products of a tile [BLOCK_M, BLOCK_N], and the rows of y [BLOCK_N, BLOCK_D]; where these do not fit the
    registers, of the rows' parts of BLOCK_K, and no rows of y."""
    s = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if BLOCK_K == BLOCK_D:
        y = load_rows(y_ptr, offs_j, n_end, stride_y, D, MASKED, EVEN_D, BLOCK_D)
        return dot(a, tl.trans(y), s, PRECISION), y
    else:
        offs_k = tl.arange(0, BLOCK_K)
        x_ptrs = x_ptr + offs_i.to(tl.int64)[:, None] * stride_x + offs_k[None, :]
        y_ptrs = y_ptr + offs_j.to(tl.int64)[:, None] * stride_y + offs_k[None, :]
        for k in tl.range(0, D, BLOCK_K, num_stages=STAGES):
            x = tl.load(x_ptrs + k, mask=(offs_i < N)[:, None] & (offs_k < D - k)[None, :], other=0.0)
            y = tl.load(y_ptrs + k, mask=(offs_j < n_end)[:, None] & (offs_k < D - k)[None, :], other=0.0)
            s = dot(x, tl.trans(y), s, PRECISION)
        return s, s


@triton.jit
def pick(t, start, count_1, start_2):
    """Block number t of two ranges."""
    return tl.where(t < count_1, start + t, start_2 + t - count_1)


@triton.jit
def add_exponentials(total, largest, x, AXIS: tl.constexpr, FIXED: tl.constexpr):
    """Adds e^x along AXIS to total * e^largest; x is -inf where there is nothing to add."""
    if FIXED:
        return total + tl.sum(tl.exp2(x * LOG2_E), axis=AXIS), largest
    else:
        new = tl.maximum(largest, tl.max(x, axis=AXIS))
        safe = tl.where(new == float("-inf"), 0.0, new)
        e = tl.exp2((x - tl.expand_dims(safe, AXIS)) * LOG2_E)
        return total * tl.exp2((largest - safe) * LOG2_E) + tl.sum(e, axis=AXIS), new


@triton.jit
def sums_tile(
    a, x_ptr, stride_x, N, keys_i, offs_i, y_ptr, y_labels_ptr, j0, n_end, stride_y, D, scale,
    total, largest,
    sums_ptr, maxima_ptr, column_slot, own_columns,
    MASKED: tl.constexpr, SELF: tl.constexpr, NEGATIVES: tl.constexpr, FIXED: tl.constexpr,
    EVEN_D: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Sums of the exponentials of a tile, of its rows and, for SELF, of its columns."""
    offs_j = j0 + tl.arange(0, BLOCK_N)
    s, _y = products(
        a, x_ptr, offs_i, N, stride_x, y_ptr, offs_j, n_end, stride_y, D, MASKED, EVEN_D, PRECISION, BLOCK_M, BLOCK_N,
        BLOCK_D, BLOCK_K, STAGES,
    )  # fmt: skip
    if FIXED:
        x = tl.exp2(s * (scale * LOG2_E))
    else:
        x = s * scale
    if MASKED:
        keys_j = load_keys(y_labels_ptr, offs_j, n_end)
        keep = (left_out(keys_i) == 0)[:, None] & (left_out(keys_j) == 0)[None, :]
        if NEGATIVES:
            keep &= keys_i[:, None] != keys_j[None, :]
        elif SELF:
            keep &= offs_i[:, None] != offs_j[None, :]
        x = tl.where(keep, x, 0.0 if FIXED else float("-inf"))
    if FIXED:
        total += tl.sum(x, axis=1)
    else:
        total, largest = add_exponentials(total, largest, x, 1, False)
    if SELF:
        here = offs_j < n_end
        column_ptr = sums_ptr + column_slot
        column = tl.load(column_ptr + offs_j, mask=here, other=0.0)
        if FIXED:
            tl.store(column_ptr + offs_j, column + tl.where(own_columns, tl.sum(x, axis=0), 0.0), mask=here)
        else:
            x = tl.where(own_columns, x, float("-inf"))
            column_max_ptr = maxima_ptr + column_slot
            column_max = tl.load(column_max_ptr + offs_j, mask=here, other=float("-inf"))
            column, column_max = add_exponentials(column, column_max, x, 0, False)
            tl.store(column_ptr + offs_j, column, mask=here)
            tl.store(column_max_ptr + offs_j, column_max, mask=here)
    return total, largest


@triton.jit
def info_nce_sums_kernel(
    x_ptr, x_labels_ptr, y_ptr, y_labels_ptr, temperature_ptr, sums_ptr, maxima_ptr, N, M, D, stride_x, stride_y,
    size_x, size_y, groups, SELF: tl.constexpr, NEGATIVES: tl.constexpr, FIXED: tl.constexpr, EVEN_D: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr, CHUNK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Partial sums of e^s, [slots, N]: program (g, k) takes the rows of group g and the columns of group k, or of
    group g + k for SELF, where the pairs of an odd number of groups g, g + k with k <= groups / 2 are all pairs once,
    so that its columns are rows of others: slot k for its rows, groups / 2 + 1 + k for its columns."""
    g = tl.program_id(0)
    k = tl.program_id(1)
    scale = 1.0 / tl.load(temperature_ptr)
    c = k
    if SELF:
        c = (g + k) % groups
    row_slot = k.to(tl.int64) * N
    column_slot = (tl.num_programs(1) + k).to(tl.int64) * N
    column_start = tl.minimum(c * size_y, M)
    column_end = tl.minimum(column_start + size_y, M)
    labels_ptr = y_labels_ptr + column_start
    columns = column_end - column_start
    row_start = g * size_x
    row_end = tl.minimum(row_start + size_x, N)
    if SELF:  # the sum of every column is begun here, visited or not
        for j0 in range(column_start, column_end, BLOCK_N):
            offs_j = j0 + tl.arange(0, BLOCK_N)
            tl.store(sums_ptr + column_slot + offs_j, tl.zeros([BLOCK_N], tl.float32), mask=offs_j < column_end)
            if not FIXED:
                low = tl.full([BLOCK_N], float("-inf"), tl.float32)
                tl.store(maxima_ptr + column_slot + offs_j, low, mask=offs_j < column_end)
        tl.debug_barrier()
    for i0 in range(row_start, row_end, BLOCK_M):
        offs_i = i0 + tl.arange(0, BLOCK_M)
        a = resident(x_ptr, offs_i, N, stride_x, D, EVEN_D, BLOCK_D, BLOCK_K)  # [BLOCK_M, BLOCK_D]
        keys_i = load_keys(x_labels_ptr, offs_i, N)
        first, last, whole = rows_of_block(x_labels_ptr, i0, N, BLOCK_M)
        start = 0
        if SELF:
            start = tl.where(g == c, (i0 - row_start) // BLOCK_N, 0)
        plain_1, plain_at, plain, masked_at, masked_1, rest_at, masked = plan_blocks(
            labels_ptr, columns, first, last, whole, start, BLOCK_N, CHUNK
        )
        total = tl.zeros([BLOCK_M], tl.float32)
        largest = tl.full([BLOCK_M], float("-inf"), tl.float32)
        for t in tl.range(0, plain, num_stages=STAGES):
            j0 = column_start + pick(t, start, plain_1, plain_at) * BLOCK_N
            own = (g != c) | (j0 >= i0 + BLOCK_M)  # the square on the diagonal is all rows
            total, largest = sums_tile(
                a, x_ptr, stride_x, N, keys_i, offs_i, y_ptr, y_labels_ptr, j0, column_end, stride_y, D, scale,
                total, largest, sums_ptr, maxima_ptr, column_slot, own,
                False, SELF, NEGATIVES, FIXED, EVEN_D, PRECISION, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_K, STAGES,
            )  # fmt: skip
        for t in tl.range(0, masked, num_stages=STAGES):
            j0 = column_start + pick(t, masked_at, masked_1, rest_at) * BLOCK_N
            own = (g != c) | (j0 >= i0 + BLOCK_M)
            total, largest = sums_tile(
                a, x_ptr, stride_x, N, keys_i, offs_i, y_ptr, y_labels_ptr, j0, column_end, stride_y, D, scale,
                total, largest, sums_ptr, maxima_ptr, column_slot, own,
                True, SELF, NEGATIVES, FIXED, EVEN_D, PRECISION, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_K, STAGES,
            )  # fmt: skip
        tl.store(sums_ptr + row_slot + offs_i, total, mask=offs_i < row_end)
        if not FIXED:
            tl.store(maxima_ptr + row_slot + offs_i, largest, mask=offs_i < row_end)
        if SELF:
            tl.debug_barrier()  # the next rows add to the same columns


@triton.jit
def info_nce_positives_kernel(
    x_ptr, x_labels_ptr, y_ptr, y_labels_ptr, source_ptr, temperature_ptr, sums_ptr, maxima_ptr,
    loss_ptr, log_sum_ptr, weight_ptr, num_positives_ptr, N, M, D, stride_x, stride_y, slots,
    SELF: tl.constexpr, NEGATIVES: tl.constexpr, FIXED: tl.constexpr, SORTED: tl.constexpr, EVEN_D: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr, CHUNK: tl.constexpr, SLOTS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """log Z of a block of rows from its partial sums, then the means over their positives: a sweep over the blocks of
    their classes only."""
    i0 = tl.program_id(0) * BLOCK_M
    offs_i = i0 + tl.arange(0, BLOCK_M)
    here = offs_i < N
    total = tl.zeros([BLOCK_M], tl.float32)
    largest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    for start in range(0, slots, SLOTS):
        slot = start + tl.arange(0, SLOTS)
        at = slot.to(tl.int64)[:, None] * N + offs_i[None, :]
        there = (slot < slots)[:, None] & here[None, :]
        sums = tl.load(sums_ptr + at, mask=there, other=0.0)  # [SLOTS, BLOCK_M]
        if FIXED:
            total += tl.sum(sums, axis=0)
        else:
            maxima = tl.load(maxima_ptr + at, mask=there, other=float("-inf"))
            new = tl.maximum(largest, tl.max(maxima, axis=0))
            safe = tl.where(new == float("-inf"), 0.0, new)
            total *= tl.exp2((largest - safe) * LOG2_E)
            total += tl.sum(sums * tl.exp2((maxima - safe[None, :]) * LOG2_E), axis=0)
            largest = new
    log_sum = tl.log2(total) * LN_2
    if not FIXED:
        log_sum += tl.where(largest == float("-inf"), 0.0, largest)
    keys_i = load_keys(x_labels_ptr, offs_i, N)
    log_sum = tl.where((total > 0) & (left_out(keys_i) == 0), log_sum, tl.where(total == total, float("-inf"), total))

    a = resident(x_ptr, offs_i, N, stride_x, D, EVEN_D, BLOCK_D, BLOCK_K)
    scale = 1.0 / tl.load(temperature_ptr)
    first, last, _whole = rows_of_block(x_labels_ptr, i0, N, BLOCK_M)
    before, begun, _full, some = blocks_between(y_labels_ptr, M, first, last, BLOCK_N, CHUNK)
    loss = tl.zeros([BLOCK_M], tl.float32)
    weight = tl.zeros([BLOCK_M], tl.float32)
    count = tl.zeros([BLOCK_M], tl.int32)
    for t in tl.range(before, tl.minimum(begun, some), num_stages=STAGES):
        offs_j = t * BLOCK_N + tl.arange(0, BLOCK_N)
        s, _y = products(
            a, x_ptr, offs_i, N, stride_x, y_ptr, offs_j, M, stride_y, D, True, EVEN_D, PRECISION, BLOCK_M, BLOCK_N,
            BLOCK_D, BLOCK_K, STAGES,
        )  # fmt: skip
        x = s * scale
        keys_j = load_keys(y_labels_ptr, offs_j, M)
        positive = (keys_i[:, None] == keys_j[None, :]) & (left_out(keys_i) == 0)[:, None]
        if SELF:
            positive &= offs_i[:, None] != offs_j[None, :]
        if NEGATIVES:
            softplus, sigmoid = softplus_sigmoid(log_sum[:, None] - x)
            loss += tl.sum(tl.where(positive, softplus, 0.0), axis=1)
            weight += tl.sum(tl.where(positive, sigmoid, 0.0), axis=1)
        else:
            loss += tl.sum(tl.where(positive, x, 0.0), axis=1)
        count += tl.sum(positive.to(tl.int32), axis=1)
    mean = 1.0 / tl.maximum(count, 1).to(tl.float32)
    loss *= mean
    if not NEGATIVES:
        loss = tl.where(count > 0, log_sum - loss, 0.0)
    to = offs_i
    if SORTED == 0:
        to = tl.load(source_ptr + offs_i, mask=here, other=0)
    tl.store(loss_ptr + to, loss, mask=here)
    tl.store(log_sum_ptr + to, log_sum, mask=here)
    tl.store(weight_ptr + to, weight * mean, mask=here)
    tl.store(num_positives_ptr + to, count, mask=here)


@triton.jit
def info_nce_terms_kernel(
    d_loss_ptr, log_sum_ptr, weight_ptr, num_positives_ptr, source_ptr, largest_ptr, terms_ptr, N, stride_d,
    NEGATIVES: tl.constexpr, FIXED: tl.constexpr, SORTED: tl.constexpr, SCALED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of every row as an anchor, in sorted order, [3, N]: the weight of e^s (FIXED) or of e^(s - log Z) in dL/ds, the
    pull of each positive, and log Z."""
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
        weight *= tl.exp2(-log_sum * LOG2_E)
    tl.store(terms_ptr + offs, tl.where(counts, weight, 0.0), mask=here)
    tl.store(terms_ptr + N + offs, tl.where(counts, d_loss / count.to(tl.float32), 0.0), mask=here)
    tl.store(terms_ptr + 2 * N + offs, tl.where(counts, log_sum, float("inf")), mask=here)


@triton.jit
def one_sided(x, e, weight, log_sum, FIXED: tl.constexpr):
    """weight * e^s / Z for one side's terms, broadcast against x."""
    if FIXED:
        return e * weight
    else:
        return weight * tl.exp2((x - log_sum) * LOG2_E)


@triton.jit
def gradient_tile(
    a, x_ptr, stride_x, N, keys_i, offs_i, weight_i, pull_i, log_sum_i, y_ptr, y_labels_ptr, terms_ptr, j0,
    M, stride_y, D, scale, d_x,
    MASKED: tl.constexpr, SELF: tl.constexpr, X_ANCHORS: tl.constexpr, Y_ANCHORS: tl.constexpr,
    NEGATIVES: tl.constexpr, FIXED: tl.constexpr, EVEN_D: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """d_x + H y with H = dL/ds of a tile: of the rows as anchors, of the columns as anchors, or of both."""
    offs_j = j0 + tl.arange(0, BLOCK_N)
    s, y = products(
        a, x_ptr, offs_i, N, stride_x, y_ptr, offs_j, M, stride_y, D, MASKED, EVEN_D, PRECISION, BLOCK_M, BLOCK_N,
        BLOCK_D, BLOCK_K, STAGES,
    )  # fmt: skip
    here = offs_j < M
    x = s * scale
    e = x
    if FIXED:
        e = tl.exp2(s * (scale * LOG2_E))
    if Y_ANCHORS:
        weight_j = tl.load(terms_ptr + offs_j, mask=here, other=0.0)[None, :]
        log_sum_j = weight_j
        if MASKED or not FIXED:
            log_sum_j = tl.load(terms_ptr + 2 * M + offs_j, mask=here, other=float("inf"))[None, :]
    if X_ANCHORS and Y_ANCHORS and FIXED:
        h = e * (weight_i[:, None] + weight_j)
    elif X_ANCHORS and Y_ANCHORS:
        h = one_sided(x, e, weight_i[:, None], log_sum_i[:, None], FIXED) + one_sided(x, e, weight_j, log_sum_j, FIXED)
    elif X_ANCHORS:
        h = one_sided(x, e, weight_i[:, None], log_sum_i[:, None], FIXED)
    else:
        h = one_sided(x, e, weight_j, log_sum_j, FIXED)
    if MASKED:
        keys_j = load_keys(y_labels_ptr, offs_j, M)
        both = (left_out(keys_i) == 0)[:, None] & (left_out(keys_j) == 0)[None, :]
        if SELF:
            both &= offs_i[:, None] != offs_j[None, :]
        same = both & (keys_i[:, None] == keys_j[None, :])
        if NEGATIVES:
            h = tl.where(both & (same == 0), h, 0.0)
        else:
            h = tl.where(both, h, 0.0)
        pull = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        if X_ANCHORS:
            if NEGATIVES:
                pull += pull_i[:, None] * softplus_sigmoid(log_sum_i[:, None] - x)[1]
            else:
                pull += pull_i[:, None]
        if Y_ANCHORS:
            pull_j = tl.load(terms_ptr + M + offs_j, mask=here, other=0.0)[None, :]
            if NEGATIVES:
                pull += pull_j * softplus_sigmoid(log_sum_j - x)[1]
            else:
                pull += pull_j
        h -= tl.where(same, pull, 0.0)
    if BLOCK_K < BLOCK_D:
        y = load_rows(y_ptr, offs_j, M, stride_y, D, MASKED, EVEN_D, BLOCK_D)
    return dot(cast(h, y.dtype), y, d_x, PRECISION)


@triton.jit
def info_nce_gradient_kernel(
    x_ptr, x_labels_ptr, x_terms_ptr, y_ptr, y_labels_ptr, y_terms_ptr, source_ptr, inv_norm_ptr, temperature_ptr,
    largest_ptr, d_x_ptr, along_ptr, N, M, D, D_OUT, stride_x, stride_y, SELF: tl.constexpr, X_ANCHORS: tl.constexpr,
    Y_ANCHORS: tl.constexpr, NEGATIVES: tl.constexpr, FIXED: tl.constexpr, SORTED: tl.constexpr, RAW: tl.constexpr,
    SCALED: tl.constexpr, ALONG: tl.constexpr, EVEN_D: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, CHUNK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Gradient of a block of rows of x [N, D], written once, to where the rows came from: a sweep over all rows of y.

    Self contrast: H is symmetric, so H x is the whole gradient; the triangle would save a quarter of the FLOP here, at
    the price of adding [BLOCK_N, D] floats a tile to rows of other programs, in turn or without a fixed order.
    """
    i0 = tl.program_id(0) * BLOCK_M
    offs_i = i0 + tl.arange(0, BLOCK_M)
    here = offs_i < N
    a = resident(x_ptr, offs_i, N, stride_x, D, EVEN_D, BLOCK_D, BLOCK_K)  # [BLOCK_M, BLOCK_D]
    keys_i = load_keys(x_labels_ptr, offs_i, N)
    weight_i = tl.zeros([BLOCK_M], tl.float32)
    pull_i = weight_i
    log_sum_i = weight_i
    if X_ANCHORS:
        weight_i = tl.load(x_terms_ptr + offs_i, mask=here, other=0.0)
        pull_i = tl.load(x_terms_ptr + N + offs_i, mask=here, other=0.0)
        log_sum_i = tl.load(x_terms_ptr + 2 * N + offs_i, mask=here, other=float("inf"))
    scale = 1.0 / tl.load(temperature_ptr)
    first, last, whole = rows_of_block(x_labels_ptr, i0, N, BLOCK_M)
    plain_1, plain_at, plain, masked_at, masked_1, rest_at, masked = plan_blocks(
        y_labels_ptr, M, first, last, whole, 0, BLOCK_N, CHUNK
    )
    d_x = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for t in tl.range(0, plain, num_stages=STAGES):
        j0 = pick(t, 0, plain_1, plain_at) * BLOCK_N
        d_x = gradient_tile(
            a, x_ptr, stride_x, N, keys_i, offs_i, weight_i, pull_i, log_sum_i, y_ptr, y_labels_ptr, y_terms_ptr, j0, M,
            stride_y, D, scale, d_x, False, SELF, X_ANCHORS, Y_ANCHORS, NEGATIVES, FIXED, EVEN_D, PRECISION,
            BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_K, STAGES,
        )  # fmt: skip
    for t in tl.range(0, masked, num_stages=STAGES):
        j0 = pick(t, masked_at, masked_1, rest_at) * BLOCK_N
        d_x = gradient_tile(
            a, x_ptr, stride_x, N, keys_i, offs_i, weight_i, pull_i, log_sum_i, y_ptr, y_labels_ptr, y_terms_ptr, j0, M,
            stride_y, D, scale, d_x, True, SELF, X_ANCHORS, Y_ANCHORS, NEGATIVES, FIXED, EVEN_D, PRECISION,
            BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_K, STAGES,
        )  # fmt: skip
    d_x *= scale
    if SCALED:
        d_x *= tl.load(largest_ptr) * (1.0 / 4096.0)
    rows = load_rows(x_ptr, offs_i, N, stride_x, D, True, EVEN_D, BLOCK_D).to(tl.float32)
    along = tl.sum(d_x * rows, axis=1)
    if ALONG:
        tl.store(along_ptr + offs_i, along, mask=here)
    to = offs_i
    if SORTED == 0:
        to = tl.load(source_ptr + offs_i, mask=here, other=0)
    if RAW:
        inv_norm = tl.load(inv_norm_ptr + offs_i, mask=here, other=0.0)
        d_x = (d_x - along[:, None] * rows) * inv_norm[:, None]
    offs_d = tl.arange(0, BLOCK_D)
    out = d_x_ptr + to.to(tl.int64)[:, None] * D_OUT + offs_d[None, :]
    tl.store(out, cast(d_x, d_x_ptr.dtype.element_ty), mask=here[:, None] & (offs_d < D_OUT)[None, :])
