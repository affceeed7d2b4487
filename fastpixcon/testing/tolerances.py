"""How far info_nce and its gradients may be off on a Case: as kernels may, and as eager PyTorch may."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastpixcon.ops import define
from fastpixcon.reference.info_nce import d_logits, prepare, prepared_pairs
from fastpixcon.testing.accuracy import Tolerance, float64
from fastpixcon.testing.info_nce import InfoNCECase
from fastpixcon.testing.rounding import ONE, of_dtype, of_operations, spread_of_products, spread_of_total
from fastpixcon.values import Statistics


def forward_tolerances(case: InfoNCECase) -> tuple[Tolerance, ...]:
    nats = Tolerance(case.tol, case.N**0.5)  # of one, if they are fewer
    return nats, nats, Tolerance(case.tol), Tolerance(case.tol)


def gradient_tolerances(case: InfoNCECase, arguments: Sequence[Any], d_loss: Tensor) -> list[Tolerance]:
    """Of d_anchors, d_contrast and d_temperature. Half precision: a kernel may round dL/ds to the rows' type."""
    rounding, rounded = of_dtype(case.dtype), (0.0,) * 3
    if rounding > 0:
        rounded = info_nce_rounding(case, arguments, d_loss)
    scales = cancelled(case, arguments, d_loss)
    tolerances = [Tolerance(case.tol, x, rounding, y) for x, y in zip(scales, rounded, strict=True)]
    return [*tolerances[:2], tolerances[2].times(ONE)]


def eager_tol(case: InfoNCECase) -> float:
    """In nats: ``case.tol``, and what is lost where PyTorch rounds the result of each operation to the rows' type."""
    return case.tol + of_operations(case.dtype, case.largest_logit, case.N if case.M is None else case.M)


def eager_tolerances(case: InfoNCECase, arguments: Sequence[Any], d_loss: Tensor) -> list[Tolerance]:
    """Of d_anchors, d_contrast and d_temperature."""
    tolerances = [Tolerance(eager_tol(case), x, of_dtype(case.dtype)) for x in cancelled(case, arguments, d_loss)]
    return [*tolerances[:2], tolerances[2].times(ONE)]


def cancelled(case: InfoNCECase, arguments: Sequence[Any], d_loss: Tensor) -> tuple[float, float, float]:
    """Scales of d_anchors, d_contrast and d_temperature, all of them cancelled sums.

    A row's gradient is |d_loss| * |c| / T times a difference of two averages; of a raw row over its norm. That of the
    temperature is one of averages of logits over T.
    """
    given = define.OPERATORS["info_nce"].values(float64(arguments))
    anchors, contrast = given["anchors"].x, given["contrast"]
    sides = [anchors, anchors if contrast is None else contrast.x]
    norms = [x.norm(dim=1) if x.numel() else x.new_zeros(1) for x in sides]
    longest = [float(x.max()) if case.rows == "any" else 1.0 for x in norms]
    shortest = [float(x[x > 0].min()) if case.rows == "raw" and bool((x > 0).any()) else 1.0 for x in norms]
    unit = float(d_loss.double().norm()) / case.temperature
    logit = longest[0] * longest[1] / case.temperature
    return unit * longest[1] / shortest[0], unit * longest[0] / shortest[1], unit * logit


def info_nce_rounding(case: InfoNCECase, arguments: Sequence[Any], d_loss: Tensor) -> tuple[float, float, float]:
    given = float64(arguments)
    _, *found = define.OVERLOADS["reference", "info_nce"](*given)
    anchors, contrast, rule, rows = define.OPERATORS["info_nce"].values(given).values()
    a, a_inverse = prepare(anchors, rows)
    c, c_inverse = (a, a_inverse) if contrast is None else prepare(contrast, rows)
    these = prepared_pairs(a, c, anchors, contrast, rule)
    weights = d_logits(these, rule, Statistics(d_loss.double(), *found))
    return rounding_scales(weights, contrast is None, a, c, (a_inverse, c_inverse), case.temperature)


def rounding_scales(
    weights: Tensor, itself: bool, a: Tensor, c: Tensor, inverses: tuple[Tensor, Tensor], temperature: float
) -> tuple[float, float, float]:
    """Norms that half a unit in the last place of rounded weights dL/ds [N, M] is of, in d_anchors, d_contrast and
    d_temperature; of rows over their norms."""
    of_rows = weights + weights.T if itself else weights
    return (
        float((spread_of_products(of_rows, c) * inverses[0]).norm()) / temperature,
        float((spread_of_products(weights.T, a) * inverses[1]).norm()) / temperature,
        spread_of_total(of_rows, a @ c.T) / temperature**2 * (0.5 if itself else 1.0),
    )
