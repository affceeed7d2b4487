"""Class-aware hard-anchor selection in four launches; ``reference/select_anchors.py`` is the contract.

1. codes: every pixel's group (segment, hard or easy), counted with integer atomics, whose order does not matter;
2. choose: one program decides what every segment keeps, and a key below which about that many pixels of a group lie;
3. collect: those pixels, a few more than are kept, in any order;
4. draw: one program a segment keeps the smallest keys and writes them in order. A group of which too few or too many
   were collected, one in some ten thousand, is searched again in the image.

Keys of different pixels differ, as the hash is a bijection of the lower 32 bits of the index: no ties.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastpixcon.kernels.common import ASSERTIONS, SEGMENT_STREAM, cdiv, hash32, launch, power_of_two

BLOCK = 1024  # pixels a program
CHOOSE = 1024  # segments at a time
CANDIDATES = 128  # of a segment at a time
MOST_BINS = 512  # of a histogram in shared memory
SLACK = 4.0  # standard deviations of candidates beyond those kept


@triton.jit
def codes_kernel(
    labels_ptr, predictions_ptr, codes_ptr, counts_ptr, H, W, h, w, K, ignore_index, stride_lb, stride_lh, stride_lw,
    stride_b, stride_k, stride_h, stride_w, LOGITS: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(1)
    B = tl.num_programs(1)
    q = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # pixel of the image
    here = q < h * w
    y = q // w
    x = q - y * w
    label_y = y.to(tl.int64) * H // h
    label_x = x.to(tl.int64) * W // w
    at = labels_ptr + b.to(tl.int64) * stride_lb + label_y * stride_lh + label_x * stride_lw
    label = tl.load(at, mask=here, other=0).to(tl.int64)
    counted = here & (label != ignore_index) & (label >= 0)
    tl.device_assert((label < K) | (counted == 0), "labels: a label is neither below num_classes nor ignore_index")
    counted &= label < K
    pixel = predictions_ptr + b.to(tl.int64) * stride_b + y.to(tl.int64) * stride_h + x.to(tl.int64) * stride_w
    if LOGITS:  # argmax: the lowest class on ties, NaN never wins
        best = tl.full([BLOCK], float("-inf"), tl.float32)
        predicted = tl.zeros([BLOCK], tl.int64)
        for k in range(K):
            value = tl.load(pixel, mask=here, other=0.0).to(tl.float32)
            predicted = tl.where(value > best, k, predicted)
            best = tl.where(value > best, value, best)
            pixel += stride_k
    else:
        predicted = tl.load(pixel, mask=here, other=0).to(tl.int64)
    pair = (label * 2 + (predicted == label)).to(tl.int32)
    group = (label.to(tl.int32) * B + b) * 2 + (predicted == label)
    tl.store(codes_ptr + b.to(tl.int64) * h * w + q, tl.where(counted, group, -1), mask=here)
    if BINS > 0:
        number = tl.arange(0, BINS)
        count = tl.histogram(tl.where(counted, pair, 0), BINS, mask=counted)
        tl.atomic_add(counts_ptr + (number // 2 * B + b) * 2 + number % 2, count, mask=count > 0, sem="relaxed")
    else:
        tl.atomic_add(counts_ptr + tl.where(counted, group, 0), 1, mask=counted, sem="relaxed")


@triton.jit
def load_segments(counts_ptr, start, segments, min_pixels, CHOOSE: tl.constexpr):
    number = start + tl.arange(0, CHOOSE)
    here = number < segments
    hard = tl.load(counts_ptr + 2 * number, mask=here, other=0)
    easy = tl.load(counts_ptr + 2 * number + 1, mask=here, other=0)
    return number, here, hard, easy, here & (hard + easy >= min_pixels)


@triton.jit
def room(keep, slack):
    """Candidates that a group which keeps so many asks for, and how many it has room for."""
    wanted = keep.to(tl.float32) + slack * tl.sqrt(keep.to(tl.float32)) + 2 * slack
    size = (wanted + 6 * tl.sqrt(tl.maximum(wanted, 0.0)) + 16).to(tl.int32)
    return wanted, tl.where(keep > 0, tl.maximum(size, 16), 0)


@triton.jit
def threshold(keep, count, slack):
    """So many of `count` uniform 32-bit keys lie at or below it that `keep` are hardly ever missed; -1 for none."""
    wanted, _ = room(keep, slack)
    share = wanted / tl.maximum(count, 1).to(tl.float32)
    below = (tl.minimum(tl.maximum(share, 0.0), 0.999) * 4294967296.0).to(tl.int64)
    return tl.where(keep == 0, -1, tl.where(share >= 0.999, 0xFFFFFFFF, below))


@triton.jit
def choose_kernel(
    counts_ptr, seed_ptr, keep_ptr, threshold_ptr, begin_ptr, offset_ptr, index_ptr, label_ptr, total_ptr,
    taken_ptr, segments, B, max_samples, max_views, min_pixels, slack, CHOOSE: tl.constexpr,
):  # fmt: skip
    seed = tl.load(seed_ptr)
    eligible_segments = 0
    for start in range(0, segments, CHOOSE):
        number, here, hard, easy, eligible = load_segments(counts_ptr, start, segments, min_pixels, CHOOSE)
        eligible_segments += tl.sum(eligible.to(tl.int32), axis=0)
    most = tl.maximum(tl.minimum(max_samples // tl.maximum(eligible_segments, 1), max_views), 1)

    # More segments than samples: those of the max_samples smallest keys.
    low = tl.full([], -1, tl.int64)
    high = tl.full([], 0xFFFFFFFF, tl.int64)  # the smallest key with max_samples keys up to it, by bisection
    if eligible_segments > max_samples:
        while high - low > 1:
            middle = (low + high) // 2
            count = 0
            for start in range(0, segments, CHOOSE):
                number, here, hard, easy, eligible = load_segments(counts_ptr, start, segments, min_pixels, CHOOSE)
                key = hash32(seed, number.to(tl.int64), SEGMENT_STREAM).to(tl.int64)
                count += tl.sum((eligible & (key <= middle)).to(tl.int32), axis=0)
            low = tl.where(count < max_samples, middle, low)
            high = tl.where(count < max_samples, high, middle)

    written = 0
    begun = 0
    for start in range(0, segments, CHOOSE):
        number, here, hard, easy, eligible = load_segments(counts_ptr, start, segments, min_pixels, CHOOSE)
        kept = eligible & (hash32(seed, number.to(tl.int64), SEGMENT_STREAM).to(tl.int64) <= high)
        views = tl.where(kept, tl.minimum(most, hard + easy), 0)
        many_hard = 2 * hard >= views
        many_easy = 2 * easy >= views
        keep_hard = tl.where(many_hard, tl.where(many_easy, views // 2, views - easy), hard)
        keep_easy = views - keep_hard
        tl.store(offset_ptr + number, written + tl.cumsum(views, axis=0) - views, mask=here)
        written += tl.sum(views, axis=0)
        _, room_hard = room(keep_hard, slack)
        _, room_easy = room(keep_easy, slack)
        both = room_hard + room_easy
        begin = begun + tl.cumsum(both, axis=0) - both
        begun += tl.sum(both, axis=0)
        tl.store(begin_ptr + 2 * number, begin, mask=here)
        tl.store(begin_ptr + 2 * number + 1, begin + room_hard, mask=here)
        tl.store(keep_ptr + 2 * number, keep_hard, mask=here)
        tl.store(keep_ptr + 2 * number + 1, keep_easy, mask=here)
        tl.store(threshold_ptr + 2 * number, threshold(keep_hard, hard, slack), mask=here)
        tl.store(threshold_ptr + 2 * number + 1, threshold(keep_easy, easy, slack), mask=here)
    tl.store(total_ptr, written)
    for start in range(0, segments, CHOOSE):  # by itself, so that no register spills
        number, here, hard, easy, eligible = load_segments(counts_ptr, start, segments, min_pixels, CHOOSE)
        kept = eligible & (hash32(seed, number.to(tl.int64), SEGMENT_STREAM).to(tl.int64) <= high)
        row = tl.where(kept, 0, segments // B)  # of taken [2, K]
        tl.atomic_add(taken_ptr + row + number // B, 1, mask=here & (hard + easy > 0), sem="relaxed")
    for start in range(0, max_samples, CHOOSE):  # the padding; what is drawn is written over it
        at = start + tl.arange(0, CHOOSE)
        tl.store(index_ptr + at, tl.full([CHOOSE], -1, tl.int64), mask=at < max_samples)
        tl.store(label_ptr + at, tl.full([CHOOSE], -1, tl.int32), mask=at < max_samples)


@triton.jit
def collect_kernel(
    codes_ptr, seed_ptr, keep_ptr, threshold_ptr, begin_ptr, counts_ptr, candidates_ptr, segments, pixels, slack,
    BLOCK: tl.constexpr,
):  # fmt: skip
    found_ptr = counts_ptr + 2 * segments
    first = tl.program_id(1).to(tl.int64) * pixels
    q = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    code = tl.load(codes_ptr + first + q, mask=q < pixels, other=-1)
    group = tl.maximum(code, 0)
    key = hash32(tl.load(seed_ptr), first + q, 0).to(tl.int64)
    hit = (code >= 0) & (key <= tl.load(threshold_ptr + group, mask=code >= 0, other=-1))
    place = tl.atomic_add(found_ptr + group, 1, mask=hit, sem="relaxed")
    _, size = room(tl.load(keep_ptr + group, mask=hit, other=0), slack)
    begin = tl.load(begin_ptr + group, mask=hit, other=0)
    tl.store(candidates_ptr + begin + place, q, mask=hit & (place < size))


@triton.jit
def smallest_key(
    codes_ptr, candidates_ptr, seed, first, group, keep, begin, found, scan, pixels, BLOCK: tl.constexpr,
    CANDIDATES: tl.constexpr,
):  # fmt: skip
    """The key of which `keep` keys of a group are not larger, by bisection; -1 for none. Among the candidates, or, if
    `scan`, in the whole image."""
    low = tl.full([], -1, tl.int64)
    high = tl.full([], 0xFFFFFFFF, tl.int64)
    if keep == 0:
        high = tl.full([], -1, tl.int64)
    while high - low > 1:
        middle = (low + high) // 2
        count = 0
        if scan:
            for start in range(0, pixels, BLOCK):
                q = start + tl.arange(0, BLOCK)
                mine = tl.load(codes_ptr + first + q, mask=q < pixels, other=-1) == group
                hit = mine & (hash32(seed, first + q, 0).to(tl.int64) <= middle)
                count += tl.sum(hit.to(tl.int32), axis=0)
        else:
            for start in range(0, found, CANDIDATES):
                c = start + tl.arange(0, CANDIDATES)
                q = tl.load(candidates_ptr + begin + c, mask=c < found, other=0)
                count += tl.sum(
                    ((c < found) & (hash32(seed, first + q, 0).to(tl.int64) <= middle)).to(tl.int32), axis=0
                )
        low = tl.where(count < keep, middle, low)
        high = tl.where(count < keep, high, middle)
    return high


@triton.jit
def count_before(
    candidates_ptr, seed, first, begin, found, high, q, CANDIDATES: tl.constexpr,
):  # fmt: skip
    """How many pixels that a group keeps come before each of the pixels q."""
    before = tl.zeros([CANDIDATES], tl.int32)
    for start in range(0, found, CANDIDATES):
        c = start + tl.arange(0, CANDIDATES)
        other = tl.load(candidates_ptr + begin + c, mask=c < found, other=0)
        kept = (c < found) & (hash32(seed, first + other, 0).to(tl.int64) <= high)
        before += tl.sum((kept[None, :] & (other[None, :] < q[:, None])).to(tl.int32), axis=1)
    return before


@triton.jit
def draw_kernel(
    codes_ptr, seed_ptr, keep_ptr, begin_ptr, offset_ptr, counts_ptr, candidates_ptr, index_ptr, label_ptr, B, segments,
    pixels, slack, BLOCK: tl.constexpr, CANDIDATES: tl.constexpr,
):  # fmt: skip
    found_ptr = counts_ptr + 2 * segments
    segment = tl.program_id(0)
    hard = tl.load(keep_ptr + 2 * segment)
    easy = tl.load(keep_ptr + 2 * segment + 1)
    if hard + easy > 0:
        seed = tl.load(seed_ptr)
        label = segment // B
        first = (segment - label * B).to(tl.int64) * pixels
        to = tl.load(offset_ptr + segment)
        begin_hard = tl.load(begin_ptr + 2 * segment)
        begin_easy = tl.load(begin_ptr + 2 * segment + 1)
        found_hard = tl.load(found_ptr + 2 * segment)
        found_easy = tl.load(found_ptr + 2 * segment + 1)
        _, room_hard = room(hard, slack)
        _, room_easy = room(easy, slack)
        scan = (found_hard < hard) | (found_easy < easy) | (found_hard > room_hard) | (found_easy > room_easy)
        high_hard = smallest_key(
            codes_ptr, candidates_ptr, seed, first, 2 * segment, hard, begin_hard, found_hard, scan, pixels, BLOCK,
            CANDIDATES,
        )  # fmt: skip
        high_easy = smallest_key(
            codes_ptr, candidates_ptr, seed, first, 2 * segment + 1, easy, begin_easy, found_easy, scan, pixels, BLOCK,
            CANDIDATES,
        )  # fmt: skip
        if scan:
            for start in range(0, pixels, BLOCK):
                q = start + tl.arange(0, BLOCK)
                code = tl.load(codes_ptr + first + q, mask=q < pixels, other=-1)
                key = hash32(seed, first + q, 0).to(tl.int64)
                kept = (code == 2 * segment) & (key <= high_hard) | (code == 2 * segment + 1) & (key <= high_easy)
                place = tl.cumsum(kept.to(tl.int32), axis=0) - 1
                tl.store(index_ptr + to + place, first + q, mask=kept)
                tl.store(label_ptr + to + place, tl.zeros([BLOCK], tl.int32) + label, mask=kept)
                to += tl.sum(kept.to(tl.int32), axis=0)
        else:
            for start in range(0, found_hard + found_easy, CANDIDATES):
                c = start + tl.arange(0, CANDIDATES)
                there = c < found_hard + found_easy
                at = tl.where(c < found_hard, begin_hard + c, begin_easy + c - found_hard)
                q = tl.load(candidates_ptr + at, mask=there, other=0)
                key = hash32(seed, first + q, 0).to(tl.int64)
                kept = there & (key <= tl.where(c < found_hard, high_hard, high_easy))
                place = count_before(candidates_ptr, seed, first, begin_hard, found_hard, high_hard, q, CANDIDATES)
                place += count_before(candidates_ptr, seed, first, begin_easy, found_easy, high_easy, q, CANDIDATES)
                tl.store(index_ptr + to + place, first + q, mask=kept)
                tl.store(label_ptr + to + place, tl.zeros([CANDIDATES], tl.int32) + label, mask=kept)


def most_candidates(segments: int, max_samples: int, max_views: int) -> int:
    """No less than the rooms of all groups together: they are so many for each segment that keeps any."""
    keep = min(max_samples, max_views)
    wanted = keep + SLACK * keep**0.5 + 2 * abs(SLACK)
    beyond = math.ceil(2 * (wanted - keep + 6 * wanted**0.5 + 18))  # what is kept, of a segment's two groups
    return min(segments, max_samples) * beyond + max_samples + max_views


def select_anchors(
    labels: Tensor,
    predictions: Tensor,
    seed: Tensor,
    num_classes: int,
    max_samples: int,
    max_views: int,
    min_pixels: int,
    ignore_index: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, H, W = labels.shape
    h, w = predictions.shape[-2:]
    K, segments, pixels = num_classes, num_classes * B, h * w
    if B * pixels > 1 << 32 or 2 * segments > 1 << 30 or pixels >= 1 << 31:
        raise ValueError(f"labels: got {B} images of {h} x {w} pixels and {K} classes, want fewer for backend 'triton'")
    index = labels.new_empty(max_samples, dtype=torch.int64)
    label = labels.new_empty(max_samples, dtype=torch.int32)
    total = labels.new_empty(1, dtype=torch.int32)
    # Of every group its pixels and its candidates; of every class its segments that give anchors, and those left out.
    counts = labels.new_empty(4 * segments + 2 * K, dtype=torch.int32).zero_()
    taken = counts[4 * segments :].view(2, K)
    if B * pixels == 0:
        return index.fill_(-1), label.fill_(-1), total.zero_(), taken
    codes = labels.new_empty(B * pixels, dtype=torch.int32)
    keep, begin, offset = (labels.new_empty(2 * segments, dtype=torch.int32) for _ in range(3))
    below = labels.new_empty(2 * segments, dtype=torch.int64)
    candidates = labels.new_empty(most_candidates(segments, max_samples, max_views), dtype=torch.int32)
    logits = predictions.is_floating_point()
    strides = predictions.stride() if logits else (predictions.stride(0), 0, *predictions.stride()[1:])
    bins = power_of_two(2 * K)
    launch(
        codes_kernel, (cdiv(pixels, BLOCK), B), labels, predictions, codes, counts, H, W, h, w, K, ignore_index,
        *labels.stride(), *strides, LOGITS=logits, BINS=bins if bins <= MOST_BINS else 0, BLOCK=BLOCK, num_warps=4,
        **ASSERTIONS,
    )  # fmt: skip
    launch(
        choose_kernel, (1,), counts, seed, keep, below, begin, offset, index, label, total, taken, segments, B,
        max_samples, min(max_views, max_samples), min_pixels, SLACK, CHOOSE=CHOOSE, num_warps=4,
    )  # fmt: skip
    launch(
        collect_kernel, (cdiv(pixels, BLOCK), B), codes, seed, keep, below, begin, counts, candidates, segments,
        pixels, SLACK, BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    launch(
        draw_kernel, (segments,), codes, seed, keep, begin, offset, counts, candidates, index, label, B, segments,
        pixels, SLACK, BLOCK=BLOCK, CANDIDATES=CANDIDATES, num_warps=8,
    )  # fmt: skip
    return index, label, total, taken
