"""Rows as the kernels of info_nce and of the other contrast sets want them: in order of their labels, unit, padded."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastpixcon.kernels import launch_table
from fastpixcon.kernels.common import cast, cdiv, has, how, launch, normalize, precision, round_up
from fastpixcon.kernels.info_nce_halves import UNIT, split
from fastpixcon.kernels.info_nce_order import in_order
from fastpixcon.kernels.memory_sums_blocks import short_labels
from fastpixcon.values import Rows, Rule


@triton.jit
def lower_bound(values_ptr, n, value):
    """How many of n ascending values are less than each value."""
    low = tl.zeros_like(value).to(tl.int32)
    high = low + n
    step = n
    while step > 0:
        middle = (low + high) // 2
        less = tl.load(values_ptr + middle, mask=middle < high, other=0) < value
        less &= middle < high
        low = tl.where(less, middle + 1, low)
        high = tl.where(less, high, middle)
        step //= 2
    return low


@triton.jit
def prepare_rows_kernel(
    x_ptr, labels_ptr, source_ptr, values_ptr, classes_ptr, rows_ptr, facts_ptr, inv_norm_ptr, N, n_classes, D, D_PAD,
    stride_n, stride_d, HOW: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Rows in sorted order, unit where their inv_norm is wanted, dense and padded with zeros to [N, D_PAD], or halves
    [N, 2, D_PAD]; their facts [2, N], labels and where they came from. With values, labels are 32-bit numbers in the
    order of the values, odd for those among the classes."""
    offs_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    here = offs_n < N
    source = offs_n.to(tl.int64)
    if source_ptr is not None:
        source = tl.load(source_ptr + offs_n, mask=here, other=0)
        tl.store(facts_ptr + N + offs_n, source.to(tl.int32), mask=here)
    ptrs = x_ptr + source[:, None] * stride_n + offs_d.to(tl.int64)[None, :] * stride_d
    x = tl.load(ptrs, mask=here[:, None] & (offs_d < D)[None, :], other=0.0)
    x = x.to(tl.float32)
    if inv_norm_ptr is not None:
        x, inv_norm = normalize(x)
        tl.store(inv_norm_ptr + offs_n, inv_norm, mask=here)
    if has(HOW, "fp16x3"):
        x *= UNIT
    if inv_norm_ptr is None:  # one that is not finite is NaN altogether: an infinite logit may add nothing to a sum
        whole = tl.sum(cast(x, rows_ptr.dtype.element_ty).to(tl.float32) * 0.0, axis=1) == 0
        x = tl.where(whole[:, None], x, float("nan"))
    inside = here[:, None] & (offs_d < D_PAD)[None, :]
    if has(HOW, "fp16x3"):
        out = rows_ptr + offs_n.to(tl.int64)[:, None] * (2 * D_PAD) + offs_d[None, :]
        hi, lo = split(x)
        tl.store(out, hi, mask=inside)
        tl.store(out + D_PAD, lo, mask=inside)
    else:
        out = rows_ptr + offs_n.to(tl.int64)[:, None] * D_PAD + offs_d[None, :]
        tl.store(out, cast(x, rows_ptr.dtype.element_ty), mask=inside)
    if values_ptr is not None:
        value = tl.load(values_ptr + offs_n, mask=here, other=0)
        rank = lower_bound(classes_ptr, n_classes, value)
        known = tl.load(classes_ptr + rank, mask=here & (rank < n_classes), other=0) == value
        label = tl.where(value == 0x7FFFFFFFFFFFFFFF, -1, 2 * rank + (known & (rank < n_classes)).to(tl.int32))
    else:
        label = tl.load(labels_ptr + source, mask=here, other=0)
    tl.store(facts_ptr + offs_n, label, mask=here)


class Prepared(NamedTuple):
    """Rows as the kernels want them."""

    x: Tensor  # [N, D_pad], D_pad a multiple of 16; or halves [N, 2, D_pad] float16
    precision: str  # of their products, one of their words
    # int32: labels [N], sorted, those left out last; [.., N] where they have more: where each row came from, if moved,
    # its group, and its weights as a positive and as a negative, in the bits of float32
    facts: Tensor
    moved: bool  # from the order in which they came
    weighted: bool  # facts have weights, two rows of float32
    inv_norm: Tensor | None  # [N] float32 of raw rows

    @property
    def n(self) -> int:
        return self.x.shape[0]

    @property
    def D(self) -> int:  # noqa: N802 - as shapes and kernels call it
        return int(self.x.shape[-1])  # a constant of the kernels

    @property
    def kind(self) -> str:
        """Of rows of the launch table."""
        return launch_table.kind(self.x.dtype, self.precision)


class Order(NamedTuple):
    """How rows are sorted by their labels."""

    source: Tensor | None  # [N] int64, where the row at a place comes from; None: from its place
    values: Tensor | None  # [N] int64, the labels in order, by which they are ranked; None: 32-bit labels stay


def order(labels: Tensor, is_sorted: bool) -> Order:
    if is_sorted and labels.dtype == torch.int32:
        return Order(None, None)
    values, source = in_order(labels)
    return Order(source, values if labels.dtype == torch.int64 else None)


def more_facts(these: Rows, source: Tensor | None, grouped: bool) -> list[Tensor]:
    """Groups and weights, int32 [.., N] in the order of the rows."""
    found = [these.groups[None].to(torch.int32)] if grouped and these.groups is not None else []
    v, u = these.positive_weights, these.negative_weights
    if v is not None or u is not None:
        weights = torch.stack([torch.ones_like(u) if v is None else v, torch.ones_like(v) if u is None else u])
        found.append(torch.where(these.labels == -1, 0, weights.float()).view(torch.int32))
    return found if source is None else [x.index_select(1, source) for x in found]


def prepare(these: Rows, rows: str, by: Order, classes: Tensor | None, rule: Rule) -> Prepared:
    """Rows, with facts as far as the rule looks at them."""
    word = precision(these.x.dtype, rule.fixed_shift and rows != "any")
    if rule.grouped and these.groups is None:
        raise ValueError("groups: got None, want [N] int32, which the rule looks at")
    more = more_facts(these, by.source, rule.grouped)
    weighted = these.positive_weights is not None or these.negative_weights is not None
    x, labels = these.x, these.labels
    N, D = x.shape
    dense = x.is_contiguous() and D % 16 == 0 and x.storage_offset() % 16 == 0
    if by.source is None and dense and rows == "unit" and word not in ("fp16x1", "fp16x3"):
        facts = labels.contiguous()
        return Prepared(x, word, torch.cat([facts[None], *more]) if more else facts, False, weighted, None)
    D_pad = round_up(D, 16)
    if word == "fp16x3":
        out = x.new_empty(N, 2, D_pad, dtype=torch.float16)
    else:
        out = x.new_empty(N, D_pad, dtype=torch.float16 if word == "fp16x1" else x.dtype)
    facts = labels.new_empty(1 if by.source is None else 2, N, dtype=torch.int32)
    inv_norm = x.new_empty(N, dtype=torch.float32) if rows == "raw" else None
    block_d = launch_table.width(D)
    block_n = max(1, 8192 // block_d)
    launch(
        prepare_rows_kernel, (cdiv(N, block_n),), x, labels.contiguous(), by.source, by.values, classes, out, facts,
        inv_norm, N, 0 if classes is None else classes.shape[0], D, D_pad, x.stride(0), x.stride(1), HOW=how(word),
        BLOCK_N=block_n, BLOCK_D=block_d, num_warps=8,
    )  # fmt: skip
    facts = torch.cat([facts, *more]) if more else facts
    return Prepared(out, word, facts, by.source is not None, weighted, inv_norm)


Both = tuple[Prepared, Prepared]  # anchors and contrast set, one and the same in self contrast


def prepare_both(anchors: Rows, contrast: Rows | None, rule: Rule, rows: str) -> Both:
    """Anchors and contrast set; one and the same for self contrast."""
    if rule.class_weights is not None:  # they are looked up by label
        anchors = anchors._replace(labels=short_labels(anchors.labels))
        contrast = None if contrast is None else contrast._replace(labels=short_labels(contrast.labels))
    if contrast is None:
        own = order(anchors.labels, rule.is_sorted)
        both = prepare(anchors, rows, own, own.values, rule)
        return both, both
    if anchors.labels.dtype != contrast.labels.dtype:
        anchors, contrast = (x._replace(labels=x.labels.long()) for x in (anchors, contrast))
    by, contrast_by = (order(x.labels, rule.is_sorted) for x in (anchors, contrast))
    a = prepare(anchors, rows, by, contrast_by.values, rule)
    return a, prepare(contrast, rows, contrast_by, contrast_by.values, rule)
