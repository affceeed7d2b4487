"""Classes that weigh alike in the denominator, however many rows they have (Zhu et al. 2022, BCL)."""

import torch
from torch import Tensor

from fastpixcon.values import Rows

__all__ = ["balances", "with_balance"]

LARGEST = 2.0**36  # what the largest weight is rounded to: integers add up to the same number in any order


def balances(rows: Rows | None, bank_labels: Tensor | None, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Factors of the rows of each class as negatives: (mean mass of the classes that occur) / (mass of its class), its
    mass being the sum of the weights of its rows that take part, over all contrast sets together. Nothing is read back.

    Args:
        rows: M contrast rows; None: there are none.
        bank_labels: [K, S], -1 where empty; None: no bank. Its rows have the weight 1.
        like: float64, or another dtype.

    Returns:
        [M] and [K], float32 or float64; 0 for a class without mass.
    """
    device = like.device
    one = torch.ones((), dtype=torch.int64, device=device)
    y = torch.zeros(0, dtype=torch.int64, device=device) if rows is None else rows.labels.long()
    masses = (y != -1).long()  # [M] integers
    weights = None if rows is None else rows.positive_weights
    if weights is not None:
        largest = torch.cat([weights.double(), weights.new_full((1,), bank_labels is not None).double()]).amax()
        unit = LARGEST / torch.where(largest > 0, largest, 1)
        masses, one = masses * (weights.double() * unit).round().long(), unit.round().long()
    ordered, order = y.sort()
    summed = torch.nn.functional.pad(masses[order].cumsum(0), (1, 0))  # [M + 1]

    def mass_of(classes: Tensor) -> Tensor:
        return summed[torch.searchsorted(ordered, classes, right=True)] - summed[torch.searchsorted(ordered, classes)]

    row_mass, first = mass_of(y), torch.searchsorted(ordered, ordered) == torch.arange(len(y), device=device)
    occurring = (first & (row_mass[order] > 0)).sum()
    total, of_bank = masses.sum(), None
    if bank_labels is not None:
        K = bank_labels.shape[0]
        in_bank = (bank_labels != -1).sum(dim=1) * one  # [K]
        here = mass_of(torch.arange(K, device=device))
        occurring, total = occurring + ((in_bank > 0) & (here == 0)).sum(), total + in_bank.sum()
        has_ring = (y >= 0) & (y < K)
        row_mass = row_mass + torch.where(has_ring, in_bank[y.clamp(0, K - 1)], 0)
        of_bank = here + in_bank
    mean = total.double() / occurring.clamp(min=1)
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32

    def factor(mass: Tensor) -> Tensor:
        return torch.where(mass > 0, mean / mass.clamp(min=1), 0).to(dtype)

    return None if rows is None else factor(row_mass), None if of_bank is None else factor(of_bank)


def with_balance(rows: Rows, factor: Tensor | None) -> Rows:
    """With ``factor`` [N] of each as a negative beside its weight."""
    if factor is None:
        return rows
    v = torch.ones_like(factor) if rows.positive_weights is None else rows.positive_weights
    return rows._replace(positive_weights=v, negative_weights=v * factor)
