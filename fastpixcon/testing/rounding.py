"""What it costs that kernels round the weights of a gradient, dL/ds, to the dtype of the rows they are multiplied with:
each by half a unit in the last place at most. That of distinct weights is as good as random, so errors add up in
squares; rows of one or two features are the same few over and over, with the same weights, whose errors add up."""

import torch
from torch import Tensor


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
