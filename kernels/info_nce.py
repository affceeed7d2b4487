"""info_nce and its backward: launchers. The kernels are in ``info_nce_sums.py`` and ``info_nce_gradient.py``, the sizes
of their tiles in ``launch_table.py``.

FLOP, self contrast: N^2 D forward (the triangle) and 4 N^2 D backward (all tiles, two products), 2 N^2 D / classes for
the positives. Memory beyond inputs and outputs: at most 129 partial sums a row, and a copy of the rows where they come
unsorted, raw, badly aligned, or in float32 for products of float16 halves: as many bytes as they have themselves.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastpixcon.kernels import launch_table
from fastpixcon.kernels.common import (
    ASSERTIONS,
    architecture,
    cast,
    cdiv,
    has,
    how,
    launch,
    normalize,
    precision,
    round_up,
)
from fastpixcon.kernels.info_nce_gradient import (
    info_nce_gradient_kernel,
    info_nce_project_kernel,
    info_nce_terms_kernel,
)
from fastpixcon.kernels.info_nce_halves import UNIT, split
from fastpixcon.kernels.info_nce_order import in_order
from fastpixcon.kernels.info_nce_sums import info_nce_positives_kernel, info_nce_sums_kernel
from fastpixcon.kernels.launch_table import Launch, tile
from fastpixcon.kernels.memory_sums_blocks import short_labels
from fastpixcon.values import ALL_PAIRS, Pairs, Rows, Rule, Statistics

MOST_GROUPS = 127  # of rows; odd
MOST_SPLITS = 32  # of a separate contrast set


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
    def D(self) -> int:  # noqa: N802
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


def prepare_both(anchors: Rows, contrast: Rows | None, rule: Rule, rows: str) -> tuple[Prepared, Prepared]:
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


def group_words(positives: str, negatives: str) -> dict[str, bool]:
    """What kernels are compiled for of a rule's groups."""
    if (positives, negatives) == ("any", "any"):
        return {}
    return {"x_grouped": True, "y_grouped": True, f"{positives}_positives": True, f"{negatives}_negatives": True}


class Setting(NamedTuple):
    """What the launches of a call share."""

    rule: Rule
    fixed: bool  # with a fixed shift, which not all rows let a rule have
    pairs: Pairs = ALL_PAIRS

    def words(self, x: Prepared, y: Prepared, **more: bool) -> str:
        """What kernels of tiles are compiled for. Rows know their numbers only where more is asked of these than that a
        row is not itself."""
        diagonal, mined = self.pairs.diagonal is not None, self.pairs.mined is not None
        return how(
            self.rule.denominator, x.precision, apart=self.rule.apart, fixed=self.fixed,
            numbered=diagonal or mined, diagonal=diagonal or x is y, x_moved=x.moved, y_moved=y.moved,
            x_weighted=x.weighted, y_weighted=y.weighted, **self.groups(), **more,
        )  # fmt: skip

    def rows(self, x: Prepared, anchors: bool) -> tuple[Any, ...]:
        """Of a kernel's arguments those that tell of a set of rows: anchors have numbers from `diagonal` on."""
        diagonal, mined, _ = self.pairs
        numbered = diagonal is not None or mined is not None
        return x.x, x.facts, x.n, (diagonal or 0 if anchors else 0) if numbered else None

    @property
    def masked(self) -> bool:
        """All tiles have masks."""
        return self.pairs.mined is not None or self.rule.grouped

    def weighs(self, x: Prepared, y: Prepared) -> bool:
        return x.weighted or y.weighted or self.rule.class_weights is not None

    def groups(self) -> dict[str, bool]:
        return group_words(self.rule.positive_groups, self.rule.negative_groups)

    def classes(self) -> tuple[Tensor | None, int | None]:
        weights = self.rule.class_weights
        return (None, None) if weights is None else (weights.float().contiguous(), weights.shape[0])

    def mining(self) -> tuple[Tensor | None, Tensor | None]:
        return self.pairs.mined, None if self.pairs.mined is None else self.pairs.seed


def partial_sums(x: Prepared, y: Prepared, setting: Setting, x_anchors: bool = True) -> Tensor:
    """Sums of exponentials, [1, slots, N]; without a fixed shift [2, slots, N], with what they are relative to."""
    rule, fixed, pairs = setting
    triangle = x is y and pairs.mined is None
    result: list[Tensor] = []

    def start(row: Launch) -> None:
        if triangle:
            size_x = round_up(cdiv(x.n, MOST_GROUPS), row.BLOCK_M)
            groups = cdiv(x.n, size_x) // 2 * 2 + 1
            size_y, splits = size_x, groups // 2 + 1
            slots = 2 * splits
        else:
            size_x, groups = row.BLOCK_M, cdiv(x.n, row.BLOCK_M)
            size_y = round_up(max(1, cdiv(y.n, MOST_SPLITS)), max(row.BLOCK_N, 128))
            splits = slots = max(1, cdiv(y.n, size_y))
        sums = x.x.new_empty(1 if fixed else 2, slots, x.n, dtype=torch.float32)
        launch(
            info_nce_sums_kernel, (splits, groups) if triangle else (groups, splits), *setting.rows(x, x_anchors),
            *setting.rows(y, not x_anchors), rule.temperature, *setting.classes(), *setting.mining(), sums, size_x,
            size_y, groups, D=x.D, HOW=setting.words(x, y, triangle=triangle), **tile(row, launch_table.width(x.D)),
        )  # fmt: skip
        result[:] = [sums]

    kernel = "sums_online" if not fixed else "sums" if triangle and rule.apart else "sums_any"
    if setting.weighs(x, y):
        kernel = "sums_ruled" if fixed else "sums_online_ruled"
    if setting.masked:
        kernel = "sums_mined"
    launch_table.run(kernel, architecture(x.x), x.kind, launch_table.width(x.D), start)
    return result[0]


def positives(
    x: Prepared, y: Prepared, setting: Setting, x_anchors: bool, sums: Tensor | None, outputs: tuple[Tensor, ...]
) -> None:
    """Means over positives, with log Z of partial sums; without these, sums over positives with log Z as it is.

    Outputs: loss, log Z, weight, mass."""
    block_d = launch_table.width(x.D)

    def start(row: Launch) -> None:
        launch(
            info_nce_positives_kernel, (cdiv(x.n, row.BLOCK_M),), *setting.rows(x, x_anchors),
            *setting.rows(y, not x_anchors), setting.rule.temperature, *setting.mining(), sums,
            None if sums is None else sums.shape[1], *outputs, D=x.D, HOW=setting.words(x, y), **tile(row, block_d),
        )  # fmt: skip

    launch_table.run("positives", architecture(x.x), x.kind, block_d, start)


def info_nce(anchors: Rows, contrast: Rows | None, rule: Rule, rows: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    N = anchors.x.shape[0]
    loss, log_sum, weight, mass = (anchors.x.new_empty(N, dtype=torch.float32) for _ in range(4))
    if N > 0:
        a, c = prepare_both(anchors, contrast, rule, rows)
        setting = Setting(rule, rule.fixed_shift and rows != "any")
        positives(a, c, setting, True, partial_sums(a, c, setting), (loss, log_sum, weight, mass))
    return loss, log_sum, weight, mass


def largest_d_loss(x: Prepared, *sides: Statistics | None) -> Tensor | None:
    """[] float32, the largest |d_loss| of the anchors that count, where dL/ds becomes float16, which has few exponents;
    where all are one and the same, it, whatever its sign: dividing and multiplying undo it."""
    found = [of for of in sides if of is not None and len(of.d_loss)]
    if x.x.dtype != torch.float16 or not found:
        return None
    if len(found) == 1 and found[0].d_loss.stride(0) == 0:
        return found[0].d_loss[0].float()
    each = [torch.where(of.mass > 0, of.d_loss, 0).abs().amax().float() for of in found]
    return each[0] if len(each) == 1 else torch.stack(each).amax()


def gradient_terms(x: Prepared, of: Statistics | None, setting: Setting, largest: Tensor | None) -> Tensor | None:
    """What the gradient needs of anchors, [3, n], of halves [6, n], in the order of their rows."""
    if of is None:
        return None
    terms = x.x.new_empty(6 if x.precision == "fp16x3" else 3, x.n, dtype=torch.float32)
    d_loss, *found = of
    launch(
        info_nce_terms_kernel, (cdiv(x.n, 256),), d_loss, *(each.contiguous() for each in found), x.facts,
        setting.rule.temperature, largest, terms, x.n, d_loss.stride(0),
        HOW=how(setting.rule.denominator, x.precision, fixed=setting.fixed, x_moved=x.moved), BLOCK=256, **ASSERTIONS,
    )  # fmt: skip
    return terms


class Sides(NamedTuple):
    """What the rows and the columns of a gradient are as anchors, [3, n] each; None: they are none."""

    x_terms: Tensor | None
    y_terms: Tensor | None
    largest: Tensor | None  # [], by which terms were divided, see largest_of; None: they were not

    def swapped(self) -> "Sides":
        return Sides(self.y_terms, self.x_terms, self.largest)


def gradient(
    x: Prepared, y: Prepared, sides: Sides, setting: Setting, x_anchors: bool, D: int, along: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Gradient of the rows that x was prepared from, [N, D]; of anchors, of contrast rows, or of both if x is y. Their
    dot products with the rows go `along`."""
    x_terms, y_terms, largest = sides
    rule, fixed, pairs = setting
    d_x = x.x.new_empty(x.n, D, dtype=dtype)
    in_two_steps = along is not None or x.inv_norm is not None
    d_rows = x.x.new_empty(x.n, x.D, dtype=torch.float32) if in_two_steps else d_x
    block_d = launch_table.width(x.D)

    def start(row: Launch) -> None:
        launch(
            info_nce_gradient_kernel, (cdiv(x.n, row.BLOCK_M),), *setting.rows(x, x_anchors), x_terms,
            *setting.rows(y, not x_anchors), y_terms, rule.temperature, *setting.classes(), *setting.mining(),
            largest, d_rows, D_OUT=int(d_rows.shape[1]), D=x.D, HOW=setting.words(x, y, home=not in_two_steps),
            **tile(row, block_d),
        )  # fmt: skip

    both = x is not y and x_terms is not None and y_terms is not None
    kernel = "gradient" if fixed and pairs.diagonal is None and not both else "gradient_online"
    if setting.weighs(x, y):
        kernel = "gradient_ruled"
    if setting.masked:
        kernel = "gradient_mined"
    launch_table.run(kernel, architecture(x.x), x.kind, block_d, start)
    if in_two_steps:
        block_n = max(1, 4096 // block_d)
        launch(
            info_nce_project_kernel, (cdiv(x.n, block_n),), d_rows, x.x, x.facts, x.inv_norm, d_x, along, x.n, D, D=x.D,
            HOW=how(x.precision, x_moved=x.moved), BLOCK_N=block_n, BLOCK_D=block_d, num_warps=4,
        )  # fmt: skip
    return d_x


def temperature_gradient(along: Tensor, rule: Rule, own: bool) -> Tensor:
    """From sum_ij G_ij s_ij, which self contrast counts twice."""
    return (along.sum() * (-0.5 if own else -1.0) / rule.temperature).to(rule.temperature.dtype)


def info_nce_backward(
    statistics: Statistics, anchors: Rows, contrast: Rows | None, rule: Rule, rows: str, output_mask: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    x = anchors.x
    N, D = x.shape
    own = contrast is None
    wants_contrast = output_mask[1] and not own
    nothing, d_contrast = x.new_empty(0), x.new_empty(0)
    d_temperature = torch.empty_like(rule.temperature)
    if N == 0:
        d_temperature.zero_()
        if wants_contrast and contrast is not None:
            d_contrast = torch.zeros_like(contrast.x, memory_format=torch.contiguous_format)
        return x.new_empty(N, D) if output_mask[0] else nothing, d_contrast, d_temperature
    a, c = prepare_both(anchors, contrast, rule, rows)
    setting = Setting(rule, rule.fixed_shift and rows != "any")
    largest = largest_d_loss(a, statistics)
    terms = gradient_terms(a, statistics, setting, largest)
    sides = Sides(terms, terms if own else None, largest)
    d_anchors = nothing
    if output_mask[0] or output_mask[2]:
        along = x.new_empty(N, dtype=torch.float32) if output_mask[2] else None
        d_anchors = gradient(a, c, sides, setting, True, D, along, x.dtype)
        if along is not None:
            d_temperature = temperature_gradient(along, rule, own)
    if wants_contrast and c.n == 0:
        d_contrast = x.new_empty(0, D)
    elif wants_contrast:
        d_contrast = gradient(c, a, sides.swapped(), setting, False, D, None, x.dtype)
    return d_anchors if output_mask[0] else nothing, d_contrast, d_temperature
