"""What rounding costs, from the lengths of sums and the dtype of rows.

Float32: every operation is off by half a unit of its result at most, at random, so that errors add up in squares
(Higham and Mary 2019, "A new approach to probabilistic rounding error analysis"). A sum of n terms of one sign has
partial sums that grow evenly: it is off by sqrt(n / 3) half units.

Rows of 16 bits: kernels round the weights of a gradient, dL/ds, to the dtype of the rows they are multiplied with: each
by half a unit in the last place at most. That of distinct weights is as good as random, so errors add up in squares;
rows of one or two features are the same few over and over, with the same weights, whose errors add up."""

import math

import torch
from torch import Tensor

from fastpixcon.testing.accuracy import EPS

HALF_UNIT = EPS[torch.float32] / 2
ONE = 2.0  # deviations of a single number; a norm of many has one
MOST = 1e-3  # whatever the logits


def of_rows(features: int) -> float:
    """Relative, of unit rows: each entry times 1 over the root of a sum of squares."""
    return HALF_UNIT * math.sqrt(features / 3 / 4 + 3)


def of_mean(rows: int) -> float:
    """Relative to the rows' norms."""
    return HALF_UNIT * math.sqrt(rows / 3 + 1)


def of_losses(largest_logit: float, features: int, columns: int) -> float:
    """In nats, of log Z, of a loss, and of the relative error of dL/ds, which is e to the difference of two of them:
    rows are normalised, multiplied and scaled; Z is a sum of so many columns; its logarithm is rounded, and the
    difference of it and a logit."""
    of_logit = largest_logit * math.sqrt(features / 3 + 2 * (features / 3 / 4 + 3) + 2)
    of_difference = 2 * (largest_logit + math.log(columns + 1))
    variance = of_logit**2 + columns / 3 + of_difference**2 + 4
    return min(HALF_UNIT * math.sqrt(variance), MOST)


def of_dtype(dtype: torch.dtype) -> float:
    """Of a number that is rounded to it; 0 where nothing is rounded to less than float32."""
    return EPS[dtype] / 2 if dtype.itemsize < 4 else 0.0


def of_operations(dtype: torch.dtype, largest_logit: float, columns: int) -> float:
    """What :func:`of_losses` is of, where the result of every operation is rounded to a dtype of 16 bits, and sums are
    float32 within one: both rows, their product, it over the temperature and less the largest; the logarithm of Z, and
    the difference of it and a logit; an exponential, a sum of them, and a softmax."""
    of_logit = largest_logit * math.sqrt(5)
    of_difference = (largest_logit + math.log(columns + 1)) * math.sqrt(2)
    return of_dtype(dtype) * math.sqrt(of_logit**2 + of_difference**2 + 3)


def _spread(weights: Tensor, terms: Tensor) -> Tensor:
    """[N]: of sums over [N, M], whose terms have errors in proportion to them, equal ones where weights are equal."""
    if weights.shape[1] == 0:
        return weights.new_zeros(len(weights))
    ordered, order = weights.abs().sort(dim=1)
    distinct = ordered.diff(dim=1) > 1e-9 * ordered[:, 1:]
    number = torch.nn.functional.pad(distinct.cumsum(dim=1), (1, 0))  # of the distinct weight
    return torch.zeros_like(weights).scatter_add_(1, number, terms.gather(1, order)).norm(dim=1)


def spread_of_products(weights: Tensor, rows: Tensor) -> Tensor:
    """Of weights [N, M] times rows [M, D] the lengths [N] that half a unit in the last place is of."""
    return _spread(weights, weights.abs() * rows.norm(dim=1))


def spread_of_total(weights: Tensor, cosines: Tensor) -> float:
    """The same of the sum over all pairs [N, M] of weight times cosine."""
    return float(_spread(weights.reshape(1, -1), (weights * cosines).reshape(1, -1)))
