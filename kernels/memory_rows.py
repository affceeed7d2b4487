"""What a batch adds to a memory bank, in five launches without float atomics; the contract is
``reference/memory_rows.py``.

1. classes: every pixel's class and inverse norm, the map of embeddings read once;
2. draw: one program a segment (class in an image) counts its pixels and finds those of the smallest keys;
3. gather_normalize of these;
4. region sums: one program a segment and part of D adds up the unit embeddings of its pixels, read once more;
5. regions: the sums as unit rows, but for those that cancel.

Keys of different pixels of an image differ, as the hash is a bijection of the lower 32 bits of the index: no ties.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastpixcon.kernels.common import ASSERTIONS, MEMORY_STREAM, cast, cdiv, hash32, launch, normalize, power_of_two
from fastpixcon.kernels.gather_normalize import gather_normalize

SCAN = 1024  # pixels at a time
CHUNK = 64  # candidates at a time
SUM_PIXELS, SUM_WIDTH = 64, 64  # the tile of the sums
MIN_MEAN = tl.constexpr(2.0**-16)  # a shorter mean of unit rows has no direction


@triton.jit
def embedding_offset(q, w, stride_h, stride_w, FLAT: tl.constexpr):
    """Of the pixels q of an image, int64; FLAT: one stride for all of them."""
    if FLAT:
        return q.to(tl.int64) * stride_w
    else:
        y = q // w
        return y.to(tl.int64) * stride_h + (q - y * w).to(tl.int64) * stride_w


@triton.jit
def classes_kernel(
    embeddings_ptr, labels_ptr, classes_ptr, inv_norm_ptr, D, H, W, h, w, K, ignore_index, stride_lb, stride_lh,
    stride_lw, stride_b, stride_d, stride_h, stride_w, FLAT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)
    q = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)  # pixel of the image
    here = q < h * w
    y = q // w
    x = q - y * w
    label_at = b * stride_lb + y.to(tl.int64) * H // h * stride_lh + x.to(tl.int64) * W // w * stride_lw
    label = tl.load(labels_ptr + label_at, mask=here, other=0).to(tl.int64)
    counted = here & (label != ignore_index) & (label >= 0)
    tl.device_assert((label < K) | (counted == 0), "labels: a label is neither below num_classes nor ignore_index")
    counted &= label < K
    at = b * h * w + q
    tl.store(classes_ptr + at, tl.where(counted, label, -1).to(tl.int32), mask=here)
    offs_d = tl.arange(0, BLOCK_D)
    pixel = b * stride_b + embedding_offset(q, w, stride_h, stride_w, FLAT)
    ptrs = embeddings_ptr + pixel[:, None] + offs_d.to(tl.int64)[None, :] * stride_d
    e = tl.load(ptrs, mask=counted[:, None] & (offs_d < D)[None, :], other=0.0)
    _, inv_norm = normalize(e.to(tl.float32))
    tl.store(inv_norm_ptr + at, inv_norm, mask=here)


@triton.jit
def count_up_to(classes_ptr, first, seed, k, high, pixels, SCAN: tl.constexpr):
    """Pixels of class k of an image whose key is at most `high`."""
    count = 0
    for start in range(0, pixels, SCAN):
        q = start + tl.arange(0, SCAN)
        mine = tl.load(classes_ptr + first + q, mask=q < pixels, other=-1) == k
        hit = mine & (hash32(seed, first + q, MEMORY_STREAM).to(tl.int64) <= high)
        count += tl.sum(hit.to(tl.int32), axis=0)
    return count


@triton.jit
def draw_kernel(
    classes_ptr, inv_norm_ptr, seed_ptr, candidates_ptr, counts_ptr, index_ptr, pixel_labels_ptr,
    K, P, pixels, most, SCAN: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The P smallest keys of a segment, or all: first a key with no fewer up to it, and no more than `most`. A pixel
    without direction, or that is not finite, has label -1."""
    segment = tl.program_id(0)
    b = segment // K
    k = segment - b * K
    first = b.to(tl.int64) * pixels
    seed = tl.load(seed_ptr)
    high = tl.full([], 0xFFFFFFFF, tl.int64)
    n = count_up_to(classes_ptr, first, seed, k, high, pixels, SCAN)
    tl.store(counts_ptr + segment, n)
    keep = tl.minimum(n, P)
    found = n
    low = tl.full([], -1, tl.int64)
    guess = (1.25 * keep.to(tl.float32) + 12.0) / tl.maximum(n, 1).to(tl.float32)  # of uniform keys; rarely too few
    middle = (tl.minimum(guess, 0.999) * 4294967296.0).to(tl.int64)
    while (found > most) | (found < keep):
        found = count_up_to(classes_ptr, first, seed, k, middle, pixels, SCAN)
        low = tl.where(found < keep, middle, low)
        high = tl.where(found < keep, high, middle)
        middle = (low + high) // 2
    own = candidates_ptr + segment.to(tl.int64) * most
    count = 0
    if keep > 0:
        for start in range(0, pixels, SCAN):
            q = start + tl.arange(0, SCAN)
            mine = tl.load(classes_ptr + first + q, mask=q < pixels, other=-1) == k
            hit = (mine & (hash32(seed, first + q, MEMORY_STREAM).to(tl.int64) <= high)).to(tl.int32)
            tl.store(own + count + tl.cumsum(hit, axis=0) - 1, q, mask=hit > 0)
            count += tl.sum(hit, axis=0)
    tl.debug_barrier()
    to = segment.to(tl.int64) * P
    for start in range(0, count, CHUNK):
        c = start + tl.arange(0, CHUNK)
        q = tl.load(own + c, mask=c < count, other=0)
        key = hash32(seed, first + q, MEMORY_STREAM)
        rank = tl.zeros([CHUNK], tl.int32)
        for others in range(0, count, CHUNK):
            o = others + tl.arange(0, CHUNK)
            other = hash32(seed, first + tl.load(own + o, mask=o < count, other=0), MEMORY_STREAM)
            rank += tl.sum(((o < count)[None, :] & (other[None, :] < key[:, None])).to(tl.int32), axis=1)
        kept = (c < count) & (rank < keep)
        tl.store(index_ptr + to + rank, first + q, mask=kept)
        inv_norm = tl.load(inv_norm_ptr + first + q, mask=kept, other=0.0)
        left_out = (inv_norm == 0) | (inv_norm != inv_norm)
        tl.store(pixel_labels_ptr + to + rank, tl.where(left_out, -1, k), mask=kept)
    for start in range(0, P, CHUNK):
        p = start + tl.arange(0, CHUNK)
        nothing = (p >= keep) & (p < P)
        tl.store(index_ptr + to + p, tl.full([CHUNK], -1, tl.int64), mask=nothing)
        tl.store(pixel_labels_ptr + to + p, tl.full([CHUNK], -1, tl.int32), mask=nothing)


@triton.jit
def region_sums_kernel(
    embeddings_ptr, classes_ptr, inv_norm_ptr, counts_ptr, sums_ptr, units_ptr, K, D, w, pixels, stride_b, stride_d,
    stride_h, stride_w, FLAT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Program (segment, part of D): the sum of the unit embeddings, [B * K, D] float32, and how many have a direction,
    [B * K] int32."""
    segment = tl.program_id(0)
    b = segment // K
    k = segment - b * K
    offs_d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    first = b.to(tl.int64) * pixels
    feature = b.to(tl.int64) * stride_b + offs_d.to(tl.int64) * stride_d
    left = tl.load(counts_ptr + segment)  # pixels to come
    total = tl.zeros([BLOCK_P, BLOCK_D], tl.float32)
    units = tl.zeros([BLOCK_P], tl.int32)
    start = 0
    while left > 0:
        q = start + tl.arange(0, BLOCK_P)
        mine = tl.load(classes_ptr + first + q, mask=q < pixels, other=-1) == k
        count = tl.sum(mine.to(tl.int32), axis=0)
        if count > 0:
            ptrs = embeddings_ptr + embedding_offset(q, w, stride_h, stride_w, FLAT)[:, None] + feature[None, :]
            x = tl.load(ptrs, mask=mine[:, None] & (offs_d < D)[None, :], other=0.0).to(tl.float32)
            inv_norm = tl.load(inv_norm_ptr + first + q, mask=mine, other=0.0)
            total += x * inv_norm[:, None]
            units += (inv_norm != 0).to(tl.int32)
        left -= count
        start += BLOCK_P
    tl.store(sums_ptr + segment.to(tl.int64) * D + offs_d, tl.sum(total, axis=0), mask=offs_d < D)
    if tl.program_id(1) == 0:
        tl.store(units_ptr + segment, tl.sum(units, axis=0))


@triton.jit
def regions_kernel(
    sums_ptr, units_ptr, regions_ptr, region_labels_ptr, segments, K, D, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Sums as unit rows, zeros of those that cancel; label -1 of these and of those that are not finite."""
    segment = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    here = segment < segments
    at = segment.to(tl.int64)[:, None] * D + offs_d[None, :]
    all_here = here[:, None] & (offs_d < D)[None, :]
    sums = tl.load(sums_ptr + at, mask=all_here, other=0.0)
    norm = tl.sqrt(tl.sum(sums * sums, axis=1))  # of unit rows, so no square overflows
    cancels = norm <= tl.load(units_ptr + segment, mask=here, other=0).to(tl.float32) * MIN_MEAN
    inverse = tl.where(cancels, 0.0, 1.0 / tl.where(cancels, 1.0, norm))
    tl.store(regions_ptr + at, cast(sums * inverse[:, None], regions_ptr.dtype.element_ty), mask=all_here)
    tl.store(region_labels_ptr + segment, tl.where(cancels | (norm != norm), -1, segment % K), mask=here)


def memory_rows(
    embeddings: Tensor, labels: Tensor, seed: Tensor, num_classes: int, pixels_per_image: int, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, D, h, w = embeddings.shape
    K, P, pixels = num_classes, pixels_per_image, h * w
    if B * pixels > 1 << 32 or B * K * P > 1 << 30 or pixels >= 1 << 30:
        raise ValueError(f"labels: got {B} images of {h} x {w} pixels and {K} classes, want fewer for backend 'triton'")
    pixel_labels = labels.new_empty(B, K, P, dtype=torch.int32)
    regions = embeddings.new_empty(B, K, D)
    region_labels = labels.new_empty(B, K, dtype=torch.int32)
    if B * pixels == 0:
        return embeddings.new_zeros(B, K, P, D), pixel_labels.fill_(-1), regions.zero_(), region_labels.fill_(-1)
    classes = labels.new_empty(B * pixels, dtype=torch.int32)
    inv_norm = embeddings.new_empty(B * pixels, dtype=torch.float32)
    strides = embeddings.stride()
    flat = h == 1 or strides[2] == w * strides[3]
    block_d = power_of_two(D)
    block_p = max(1, min(64, 16384 // block_d))
    launch(
        classes_kernel, (cdiv(pixels, block_p), B), embeddings, labels, classes, inv_norm, D, *labels.shape[1:], h, w,
        K, ignore_index, *labels.stride(), *strides, FLAT=flat, BLOCK_P=block_p, BLOCK_D=block_d, num_warps=8,
        **ASSERTIONS,
    )  # fmt: skip
    most = 2 * P + 64
    candidates = labels.new_empty(B * K * most, dtype=torch.int32)
    counts = labels.new_empty(B * K, dtype=torch.int32)
    index = labels.new_empty(B * K * P, dtype=torch.int64)
    launch(
        draw_kernel, (B * K,), classes, inv_norm, seed, candidates, counts, index, pixel_labels, K, P, pixels, most,
        SCAN=SCAN, CHUNK=CHUNK, num_warps=8,
    )  # fmt: skip
    pixel_rows = gather_normalize(embeddings, index)[0].view(B, K, P, D)
    sums = embeddings.new_empty(B * K, D, dtype=torch.float32)
    units = torch.empty_like(counts)
    launch(
        region_sums_kernel, (B * K, cdiv(D, SUM_WIDTH)), embeddings, classes, inv_norm, counts, sums, units, K, D, w,
        pixels, *strides, FLAT=flat, BLOCK_P=SUM_PIXELS, BLOCK_D=SUM_WIDTH, num_warps=4,
    )  # fmt: skip
    block_n = max(1, min(16, 4096 // block_d))
    launch(
        regions_kernel, (cdiv(B * K, block_n),), sums, units, regions, region_labels, B * K, K, D, BLOCK_N=block_n,
        BLOCK_D=block_d, num_warps=4,
    )  # fmt: skip
    return pixel_rows, pixel_labels, regions, region_labels
