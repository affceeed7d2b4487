"""Rows into the rings of a memory bank, in place, in three launches: one program a ring counts its rows and gives each
its place, then every row is copied to its own. No atomics: the order of the rows decides."""

import triton
import triton.language as tl
from torch import Tensor

from fastpixcon.kernels.common import ASSERTIONS, cast, cdiv, launch, power_of_two

SCAN = 1024  # labels at a time
LARGEST = tl.constexpr(2**62)


@triton.jit
def places_kernel(
    written_ptr, pixel_labels_ptr, region_labels_ptr, pixel_places_ptr, region_places_ptr, P, R, pixel_size,
    region_size, stride_ring, stride_k, stride_p, stride_r, SCAN: tl.constexpr,
):  # fmt: skip
    """Program (k, ring): the place in its ring of every row of class k, -1 for those that later ones replace."""
    k = tl.program_id(0)
    written_at = written_ptr + tl.program_id(1).to(tl.int64) * stride_ring + k.to(tl.int64) * stride_k
    written = tl.load(written_at)
    tl.device_assert((written >= 0) & (written < LARGEST), "written: a count is outside of [0, 2^62)")
    is_region = tl.program_id(1) == 1
    n = tl.where(is_region, R, P)
    size = tl.where(is_region, region_size, pixel_size)
    stride = tl.where(is_region, stride_r, stride_p)
    labels_ptr = pixel_labels_ptr
    places_ptr = pixel_places_ptr
    if is_region:
        labels_ptr = region_labels_ptr
        places_ptr = region_places_ptr
    count = 0
    for start in range(0, n, SCAN):
        r = start + tl.arange(0, SCAN)
        label = tl.load(labels_ptr + r.to(tl.int64) * stride, mask=r < n, other=-1)
        count += tl.sum((label == k).to(tl.int32), axis=0)
    before = 0
    for start in range(0, n, SCAN):
        r = start + tl.arange(0, SCAN)
        label = tl.load(labels_ptr + r.to(tl.int64) * stride, mask=r < n, other=-1)
        mine = (label == k).to(tl.int32)
        rank = before + tl.cumsum(mine, axis=0) - mine
        before += tl.sum(mine, axis=0)
        place = (written + rank) % size
        tl.store(places_ptr + r, tl.where(rank >= count - size, place.to(tl.int32), -1), mask=label == k)
    tl.store(written_at, written + count, mask=count > 0)  # without rows no barrier is behind the load


@triton.jit
def copy_kernel(
    bank_ptr, bank_labels_ptr, rows_ptr, labels_ptr, places_ptr, R, K, D, stride_bk, stride_bs, stride_bd, stride_lk,
    stride_ls, stride_r, stride_d, stride_l, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    offs_d = tl.arange(0, BLOCK_D)
    label = tl.load(labels_ptr + r.to(tl.int64) * stride_l, mask=r < R, other=-1)  # [BLOCK_R]
    has_ring = (label >= 0) & (label < K)
    place = tl.load(places_ptr + r, mask=has_ring, other=-1).to(tl.int64)
    kept = place >= 0
    here = kept[:, None] & (offs_d < D)[None, :]
    k = label.to(tl.int64)
    d = offs_d.to(tl.int64)
    row = tl.load(rows_ptr + r.to(tl.int64)[:, None] * stride_r + d[None, :] * stride_d, mask=here, other=0.0)
    row = cast(row.to(tl.float32), bank_ptr.dtype.element_ty)
    tl.store(bank_ptr + (k * stride_bk + place * stride_bs)[:, None] + d[None, :] * stride_bd, row, mask=here)
    tl.store(bank_labels_ptr + k * stride_lk + place * stride_ls, label, mask=kept)


def memory_enqueue_(
    bank: Tensor,
    bank_labels: Tensor,
    written: Tensor,
    pixel_size: int,
    pixels: Tensor,
    pixel_labels: Tensor,
    regions: Tensor,
    region_labels: Tensor,
) -> None:
    K, S, D = bank.shape
    P, R = pixels.shape[0], regions.shape[0]
    pixel_places, region_places = (labels.new_empty(labels.shape[0]) for labels in (pixel_labels, region_labels))
    launch(
        places_kernel, (K, 2), written, pixel_labels, region_labels, pixel_places, region_places, P, R, pixel_size,
        S - pixel_size, *written.stride(), pixel_labels.stride(0), region_labels.stride(0), SCAN=SCAN, num_warps=4,
        **ASSERTIONS,
    )  # fmt: skip
    block_d = power_of_two(D)
    block_r = max(1, min(16, 4096 // block_d))
    for rows, labels, places, first in (
        (pixels, pixel_labels, pixel_places, 0),
        (regions, region_labels, region_places, pixel_size),
    ):
        launch(
            copy_kernel, (cdiv(rows.shape[0], block_r),), bank[:, first:], bank_labels[:, first:], rows, labels, places,
            rows.shape[0], K, D, *bank.stride(), *bank_labels.stride(), *rows.stride(), labels.stride(0),
            BLOCK_R=block_r, BLOCK_D=block_d, num_warps=4,
        )  # fmt: skip
