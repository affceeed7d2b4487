"""info_nce and its backward: launchers. The kernels are in ``info_nce_sums.py`` and ``info_nce_gradient.py``, the sizes
of their tiles in ``launch_table.py``.

FLOP, self contrast: N^2 D forward (the triangle) and 4 N^2 D backward (all tiles, two products), 2 N^2 D / classes for
the positives. Memory beyond inputs and outputs: at most 129 partial sums a row, and a copy of the rows where they come
unsorted, raw or badly aligned.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastpixcon.kernels import launch_table
from fastpixcon.kernels.common import ASSERTIONS, architecture, cast, cdiv, launch, normalize, round_up
from fastpixcon.kernels.info_nce_gradient import (
    info_nce_gradient_kernel,
    info_nce_project_kernel,
    info_nce_terms_kernel,
)
from fastpixcon.kernels.info_nce_sums import info_nce_positives_kernel, info_nce_sums_kernel
from fastpixcon.kernels.launch_table import Launch
from fastpixcon.values import ALL_PAIRS, Pairs, Rows, Rule, Statistics

MOST_GROUPS = 127  # of rows; odd
MOST_SPLITS = 32  # of a separate contrast set
CHUNK = 128  # blocks whose labels are looked at together


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
    x_ptr, labels_ptr, source_ptr, values_ptr, classes_ptr, rows_ptr, row_labels_ptr, inv_norm_ptr, N, n_classes, D,
    D_PAD, stride_n, stride_d, RAW: tl.constexpr, SORTED: tl.constexpr, RANKED: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Rows in sorted order, unit if RAW, dense and padded with zeros to [N, D_PAD], and their labels; RANKED: as 32-bit
    numbers in the order of the labels, odd for those among the classes."""
    offs_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    here = offs_n < N
    source = offs_n.to(tl.int64)
    if SORTED == 0:
        source = tl.load(source_ptr + offs_n, mask=here, other=0)
    ptrs = x_ptr + source[:, None] * stride_n + offs_d.to(tl.int64)[None, :] * stride_d
    x = tl.load(ptrs, mask=here[:, None] & (offs_d < D)[None, :], other=0.0)
    if RAW:
        unit, inv_norm = normalize(x.to(tl.float32))
        x = cast(unit, x.dtype)
        tl.store(inv_norm_ptr + offs_n, inv_norm, mask=here)
    else:  # one that is not finite is NaN altogether: an infinite logit may add nothing to a sum
        whole = tl.sum(x.to(tl.float32) * 0.0, axis=1) == 0
        x = cast(tl.where(whole[:, None], x.to(tl.float32), float("nan")), x.dtype)
    out = rows_ptr + offs_n.to(tl.int64)[:, None] * D_PAD + offs_d[None, :]
    tl.store(out, x, mask=here[:, None] & (offs_d < D_PAD)[None, :])
    if RANKED:
        value = tl.load(values_ptr + offs_n, mask=here, other=0)
        rank = lower_bound(classes_ptr, n_classes, value)
        known = tl.load(classes_ptr + rank, mask=here & (rank < n_classes), other=0) == value
        label = tl.where(value == 0x7FFFFFFFFFFFFFFF, -1, 2 * rank + (known & (rank < n_classes)).to(tl.int32))
    else:
        label = tl.load(labels_ptr + source, mask=here, other=0)
    tl.store(row_labels_ptr + offs_n, label, mask=here)


class Prepared(NamedTuple):
    """Rows as the kernels want them."""

    x: Tensor  # [N, D_pad], D_pad a multiple of 16
    labels: Tensor  # [N] sorted, those left out last
    source: Tensor | None  # [N] int64, where each row came from; None: from its place
    inv_norm: Tensor | None  # [N] float32 of raw rows

    @property
    def n(self) -> int:
        return self.x.shape[0]

    @property
    def D(self) -> int:  # noqa: N802
        return int(self.x.shape[1])  # a constant of the kernels


class Order(NamedTuple):
    """How rows are sorted by their labels."""

    source: Tensor | None  # [N] int64, where the row at a place comes from; None: from its place
    values: Tensor | None  # [N] int64, the labels in order, by which they are ranked; None: 32-bit labels stay


def order(labels: Tensor, is_sorted: bool) -> Order:
    if is_sorted and labels.dtype == torch.int32:
        return Order(None, None)
    # in the order of unsigned numbers -1 is last
    values, source = torch.sort(labels ^ torch.iinfo(labels.dtype).min, stable=True)
    return Order(source, values if labels.dtype == torch.int64 else None)


def prepare(these: Rows, rows: str, by: Order, classes: Tensor | None) -> Prepared:
    x, labels = these
    N, D = x.shape
    dense = x.is_contiguous() and D % 16 == 0 and x.storage_offset() % 16 == 0
    if by.source is None and dense and rows == "unit":
        return Prepared(x, labels.contiguous(), None, None)
    D_pad = round_up(D, 16)
    out = x.new_empty(N, D_pad)
    row_labels = labels.new_empty(N, dtype=torch.int32)
    inv_norm = x.new_empty(N, dtype=torch.float32) if rows == "raw" else None
    block_d = launch_table.width(D)
    block_n = max(1, 8192 // block_d)
    launch(
        prepare_rows_kernel, (cdiv(N, block_n),), x, labels.contiguous(), by.source, by.values, classes, out,
        row_labels, inv_norm, N, 0 if classes is None else classes.shape[0], D, D_pad, x.stride(0), x.stride(1),
        RAW=rows == "raw", SORTED=by.source is None, RANKED=by.values is not None, BLOCK_N=block_n, BLOCK_D=block_d,
        num_warps=8,
    )  # fmt: skip
    return Prepared(out, row_labels, by.source, inv_norm)


def prepare_both(anchors: Rows, contrast: Rows | None, rule: Rule, rows: str) -> tuple[Prepared, Prepared]:
    """Anchors and contrast set; one and the same for self contrast."""
    if contrast is None:
        own = order(anchors.labels, rule.is_sorted)
        both = prepare(anchors, rows, own, own.values)
        return both, both
    if anchors.labels.dtype != contrast.labels.dtype:
        anchors, contrast = (x._replace(labels=x.labels.long()) for x in (anchors, contrast))
    by, contrast_by = (order(x.labels, rule.is_sorted) for x in (anchors, contrast))
    a = prepare(anchors, rows, by, contrast_by.values)
    return a, prepare(contrast, rows, contrast_by, contrast_by.values)


def precision(dtype: torch.dtype, fixed: bool) -> str:
    """Of products of float32: TF32 where PyTorch allows it, else three TF32 products for 22 bits, or plain float32
    where a logit must come out the same as a row's and as a column's."""
    if dtype != torch.float32:
        return "ieee"
    if torch.backends.cuda.matmul.allow_tf32:
        return "tf32"
    return "tf32x3" if fixed else "ieee"


def tile(row: Launch, block_d: int) -> dict[str, int]:
    """The options of a launch."""
    options = {
        "BLOCK_M": row.BLOCK_M,
        "BLOCK_N": row.BLOCK_N,
        "MASKED_N": row.MASKED_N,
        "BLOCK_D": block_d,
        "BLOCK_K": min(row.BLOCK_K or block_d, block_d),
        "CHUNK": CHUNK,
        "STAGES": row.num_stages,
        "num_warps": row.num_warps,
        "num_stages": row.num_stages,
    }
    return {name: value for name, value in options.items() if value is not None}


class Sums(NamedTuple):
    sums: Tensor  # [slots, N] partial sums of exponentials
    maxima: Tensor | None  # [slots, N], what they are relative to; None: to 0


def numbering(x: Prepared, y: Prepared, pairs: Pairs, x_anchors: bool) -> tuple[tuple[Any, ...], dict[str, bool]]:
    """Arguments and options of a kernel of tiles, by which a row knows its place among the contrast rows."""
    diagonal, mined = pairs.diagonal is not None, pairs.mined is not None
    how = {"DIAGONAL": diagonal, "MINED": mined, "X_SORTED": x.source is None, "Y_SORTED": y.source is None}
    if not diagonal and not mined:
        return (None,) * 6, {**how, "X_SORTED": True, "Y_SORTED": True}
    x_first, y_first = (pairs.diagonal or 0, 0) if x_anchors else (0, pairs.diagonal or 0)
    return (x.source, y.source, x_first, y_first, pairs.mined, pairs.seed), how


def partial_sums(
    a: Prepared, c: Prepared, rule: Rule, own: bool, fixed: bool, pairs: Pairs = ALL_PAIRS, x_anchors: bool = True
) -> Sums:
    """``fixed``: with a fixed shift, which not all rows let a rule have."""
    numbers, how = numbering(a, c, pairs, x_anchors)
    result: list[Sums] = []

    def start(row: Launch) -> None:
        if own:
            size_x = round_up(cdiv(a.n, MOST_GROUPS), row.BLOCK_M)
            groups = cdiv(a.n, size_x) // 2 * 2 + 1
            size_y, splits = size_x, groups // 2 + 1
            slots = 2 * splits
        else:
            size_x, groups = row.BLOCK_M, cdiv(a.n, row.BLOCK_M)
            size_y = round_up(max(1, cdiv(c.n, MOST_SPLITS)), max(row.BLOCK_N, 128))
            splits = slots = max(1, cdiv(c.n, size_y))
        sums = a.x.new_empty(slots, a.n, dtype=torch.float32)
        maxima = None if fixed else torch.empty_like(sums)
        block_d = launch_table.width(a.D)
        launch(
            info_nce_sums_kernel, (splits, groups) if own else (groups, splits), a.x, a.labels, c.x, c.labels,
            rule.temperature, sums, maxima, a.n, c.n, size_x, size_y, groups, *numbers, D=a.D, SELF=own, **how,
            NEGATIVES=rule.denominator == "negatives", FIXED=fixed, PRECISION=precision(a.x.dtype, fixed),
            **tile(row, block_d),
        )  # fmt: skip
        result[:] = [Sums(sums, maxima)]

    kernel = "sums_online" if not fixed else "sums" if own and rule.denominator == "negatives" else "sums_any"
    if pairs.mined is not None:
        kernel = "sums_mined"
    launch_table.run(kernel, architecture(a.x), a.x.element_size(), launch_table.width(a.D), start)
    return result[0]


def info_nce(anchors: Rows, contrast: Rows | None, rule: Rule, rows: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    N = anchors.x.shape[0]
    loss, log_sum, weight = (anchors.x.new_empty(N, dtype=torch.float32) for _ in range(3))
    num_positives = anchors.x.new_empty(N, dtype=torch.int32)
    if N == 0:
        return loss, log_sum, weight, num_positives
    own, fixed = contrast is None, rule.fixed_shift and rows != "any"
    a, c = prepare_both(anchors, contrast, rule, rows)
    sums = partial_sums(a, c, rule, own, fixed)
    block_d = launch_table.width(a.D)

    def start(row: Launch) -> None:
        launch(
            info_nce_positives_kernel, (cdiv(N, row.BLOCK_M),), a.x, a.labels, c.x, c.labels, a.source,
            rule.temperature, sums.sums, sums.maxima, loss, log_sum, weight, num_positives, N, c.n,
            sums.sums.shape[0], *(None,) * 5, D=a.D, SELF=own, DIAGONAL=False, MINED=False, GIVEN=False, Y_SORTED=True,
            NEGATIVES=rule.denominator == "negatives", FIXED=fixed, SORTED=a.source is None,
            PRECISION=precision(a.x.dtype, fixed), SLOTS=16,
            **tile(row, block_d),
        )  # fmt: skip

    launch_table.run("positives", architecture(a.x), a.x.element_size(), block_d, start)
    return loss, log_sum, weight, num_positives


def gradient_terms(
    x: Prepared, of: Statistics | None, rule: Rule, fixed: bool, largest: Tensor | None
) -> Tensor | None:
    """What the gradient needs of anchors, [3, n], in the order of their rows."""
    if of is None:
        return None
    terms = x.x.new_empty(3, x.n, dtype=torch.float32)
    d_loss, *found = of
    launch(
        info_nce_terms_kernel, (cdiv(x.n, 256),), d_loss, *(each.contiguous() for each in found), x.source,
        rule.temperature, largest, terms, x.n, d_loss.stride(0), NEGATIVES=rule.denominator == "negatives", FIXED=fixed,
        SORTED=x.source is None, SCALED=largest is not None, BLOCK=256, **ASSERTIONS,
    )  # fmt: skip
    return terms


class Sides(NamedTuple):
    """What the rows and the columns of a gradient are as anchors, [3, n] each; None: they are none."""

    x_terms: Tensor | None
    y_terms: Tensor | None
    largest: Tensor | None  # [] |d_loss|, by which terms were divided; None: they were not

    def swapped(self) -> "Sides":
        return Sides(self.y_terms, self.x_terms, self.largest)


def gradient(
    x: Prepared, y: Prepared, sides: Sides, rule: Rule, fixed: bool, D: int, along: Tensor | None,
    pairs: Pairs = ALL_PAIRS, x_anchors: bool = True, dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """Gradient of the rows that x was prepared from, [N, D]; of anchors, of contrast rows, or of both if x is y."""
    x_terms, y_terms, largest = sides
    d_x = x.x.new_empty(x.n, D, dtype=dtype)
    numbers, how = numbering(x, y, pairs, x_anchors)
    in_two_steps = along is not None or x.inv_norm is not None
    d_rows = x.x.new_empty(x.n, x.D, dtype=torch.float32) if in_two_steps else d_x
    block_d = launch_table.width(x.D)

    def start(row: Launch) -> None:
        launch(
            info_nce_gradient_kernel, (cdiv(x.n, row.BLOCK_M),), x.x, x.labels, x_terms, y.x, y.labels, y_terms,
            None if in_two_steps else x.source, rule.temperature, largest, d_rows, x.n, y.n, *numbers,
            D_OUT=int(d_rows.shape[1]), D=x.D, **how,
            SELF=x is y, X_ANCHORS=x_terms is not None, Y_ANCHORS=y_terms is not None,
            NEGATIVES=rule.denominator == "negatives", FIXED=fixed, SORTED=in_two_steps or x.source is None,
            SCALED=largest is not None, PRECISION=precision(x.x.dtype, fixed), **tile(row, block_d),
        )  # fmt: skip

    both = x is not y and x_terms is not None and y_terms is not None
    kernel = "gradient" if fixed and pairs.diagonal is None and not both else "gradient_online"
    if pairs.mined is not None:
        kernel = "gradient_mined"
    launch_table.run(kernel, architecture(x.x), x.x.element_size(), block_d, start)
    if in_two_steps:
        block_n = max(1, 4096 // block_d)
        launch(
            info_nce_project_kernel, (cdiv(x.n, block_n),), d_rows, x.x, x.source, x.inv_norm, d_x, along, x.n, D,
            D=x.D, SORTED=x.source is None, RAW=x.inv_norm is not None, ALONG=along is not None, BLOCK_N=block_n,
            BLOCK_D=block_d, num_warps=4,
        )  # fmt: skip
    return d_x


def info_nce_backward(
    statistics: Statistics, anchors: Rows, contrast: Rows | None, rule: Rule, rows: str, output_mask: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    x = anchors.x
    N, D = x.shape
    own, fixed = contrast is None, rule.fixed_shift and rows != "any"
    wants_contrast = output_mask[1] and not own
    nothing, d_contrast = x.new_empty(0), x.new_empty(0)
    d_temperature = torch.empty_like(rule.temperature)
    if N == 0:
        d_temperature.zero_()
        if wants_contrast and contrast is not None:
            d_contrast = torch.zeros_like(contrast.x, memory_format=torch.contiguous_format)
        return x.new_empty(N, D) if output_mask[0] else nothing, d_contrast, d_temperature
    a, c = prepare_both(anchors, contrast, rule, rows)
    largest = statistics.d_loss.abs().amax().float() if x.dtype == torch.float16 else None
    terms = gradient_terms(a, statistics, rule, fixed, largest)
    sides = Sides(terms, terms if own else None, largest)
    d_anchors = nothing
    if output_mask[0] or output_mask[2]:
        along = x.new_empty(N, dtype=torch.float32) if output_mask[2] else None
        d_anchors = gradient(a, c, sides, rule, fixed, D, along)
        if along is not None:  # sum_ij G_ij s_ij, which self contrast counts twice
            d_temperature = (along.sum() * (-0.5 if own else -1.0) / rule.temperature).to(rule.temperature.dtype)
    if wants_contrast and c.n == 0:
        d_contrast = x.new_empty(0, D)
    elif wants_contrast:
        d_contrast = gradient(c, a, sides.swapped(), rule, fixed, D, None)
    return d_anchors if output_mask[0] else nothing, d_contrast, d_temperature
