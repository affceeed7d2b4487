"""info_nce and its backward: launchers. Rows are made ready in ``info_nce_rows.py``; the kernels are in
``info_nce_sums.py`` and ``info_nce_gradient.py``, the sizes of their tiles in ``launch_table.py``.

FLOP, self contrast: N^2 D forward (the triangle) and 4 N^2 D backward (all tiles, two products), 2 N^2 D / classes for
the positives. Memory beyond inputs and outputs: at most 129 partial sums a row, and a copy of the rows where they come
unsorted, raw, badly aligned, or in float32 for products of float16 halves: as many bytes as they have themselves.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastpixcon.kernels import launch_table
from fastpixcon.kernels.common import ASSERTIONS, architecture, cdiv, how, launch, round_up
from fastpixcon.kernels.info_nce_gradient import (
    info_nce_gradient_kernel,
    info_nce_project_kernel,
    info_nce_terms_kernel,
)
from fastpixcon.kernels.info_nce_rows import Both, Prepared, prepare_both
from fastpixcon.kernels.info_nce_sums import info_nce_positives_kernel, info_nce_sums_kernel
from fastpixcon.kernels.launch_table import Launch, tile
from fastpixcon.values import ALL_PAIRS, Pairs, Rows, Rule, Statistics

MOST_GROUPS = 127  # of rows; odd
MOST_SPLITS = 32  # of a separate contrast set


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


def losses_of(prepared: Both, rule: Rule, rows: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, c = prepared
    loss, log_sum, weight, mass = (a.x.new_empty(a.n, dtype=torch.float32) for _ in range(4))
    if a.n > 0:
        setting = Setting(rule, rule.fixed_shift and rows != "any")
        positives(a, c, setting, True, partial_sums(a, c, setting), (loss, log_sum, weight, mass))
    return loss, log_sum, weight, mass


def info_nce(anchors: Rows, contrast: Rows | None, rule: Rule, rows: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return losses_of(prepare_both(anchors, contrast, rule, rows), rule, rows)


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


def gradients_of(
    prepared: Both, statistics: Statistics, anchors: Rows, contrast: Rows | None, rule: Rule, rows: str,
    output_mask: list[bool], dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Of rows in this dtype, and of the temperature."""
    a, c = prepared
    x = anchors.x
    N, D = x.shape
    own = contrast is None
    wants_contrast = output_mask[1] and not own
    nothing = d_contrast = x.new_empty(0, dtype=dtype)
    d_temperature = torch.empty_like(rule.temperature)
    if N == 0:
        d_temperature.zero_()
        if wants_contrast and contrast is not None:
            d_contrast = torch.zeros_like(contrast.x, memory_format=torch.contiguous_format, dtype=dtype)
        return x.new_empty(N, D, dtype=dtype) if output_mask[0] else nothing, d_contrast, d_temperature
    setting = Setting(rule, rule.fixed_shift and rows != "any")
    largest = largest_d_loss(a, statistics)
    terms = gradient_terms(a, statistics, setting, largest)
    sides = Sides(terms, terms if own else None, largest)
    d_anchors = nothing
    if output_mask[0] or output_mask[2]:
        along = x.new_empty(N, dtype=torch.float32) if output_mask[2] else None
        d_anchors = gradient(a, c, sides, setting, True, D, along, dtype)
        if along is not None:
            d_temperature = temperature_gradient(along, rule, own)
    if wants_contrast and c.n == 0:
        d_contrast = x.new_empty(0, D, dtype=dtype)
    elif wants_contrast:
        d_contrast = gradient(c, a, sides.swapped(), setting, False, D, None, dtype)
    return d_anchors if output_mask[0] else nothing, d_contrast, d_temperature


def info_nce_backward(
    statistics: Statistics, anchors: Rows, contrast: Rows | None, rule: Rule, rows: str, output_mask: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    prepared = prepare_both(anchors, contrast, rule, rows)
    return gradients_of(prepared, statistics, anchors, contrast, rule, rows, output_mask, anchors.x.dtype)
