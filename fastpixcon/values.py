"""What belongs together, from the public functions to the kernels: rows and their labels, a loss's rule, which pairs.

Operators take these values (``ops/define.py``): a schema has their fields one after the other.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import Tensor

__all__ = ["ALL_PAIRS", "BankRows", "Pairs", "Rows", "Rule", "Statistics"]


class Rows(NamedTuple):
    """Anchors, or contrast rows."""

    x: Tensor  # [N, D]
    labels: Tensor  # [N] int32 or int64, -1 leaves a row out
    # Of each as a contrast row, [N] float32 (float64 for float64 rows) >= 0, both or neither; None: ones
    positive_weights: Tensor | None = None  # v
    negative_weights: Tensor | None = None  # u
    groups: Tensor | None = None  # [N] int32; None unless the rule looks at them

    def each(self, function: Callable[[Tensor], Tensor]) -> "Rows":
        """Of what there is."""
        return Rows._make(x if x is None else function(x) for x in self)

    def tensors(self) -> list[Tensor]:
        """What there is."""
        return [x for x in self if x is not None]

    def like(self, tensors: Iterable[Tensor]) -> "Rows":
        """Rows of the ``tensors`` that other ones have."""
        rest = iter(tensors)
        return Rows._make(x if x is None else next(rest) for x in self)


class BankRows(NamedTuple):
    """The rows of a memory bank; x[c] are of class c."""

    x: Tensor  # [K, S, D] unit rows in the dtype of the anchors, finite also where empty
    labels: Tensor  # [K, S] int32: c where x[c, s] counts, -1 where it is empty
    negative_weights: Tensor | None = None  # [K] >= 0 of the rows of each class as negatives; None: ones


class Rule(NamedTuple):
    """What is made of the pairs, and what the caller knows of them."""

    temperature: Tensor  # [] float32 (float64 for float64 rows), from 2^-126, below which its inverse is no float32
    # "negatives" (Wang et al. 2021, eq. 3), "all" (Khosla et al. 2020, L_out) or "decoupled" (Yeh et al. 2022)
    denominator: str
    # temperature >= 0.025, for a backend that can't look at it: e^s of unit rows then neither overflows nor vanishes,
    # and sums of it need no running maximum
    fixed_shift: bool
    is_sorted: bool  # all labels ascend, with -1 last
    # [K, K] of the dtype of weights, W[y_i, y_j] of negatives j of an anchor i; labels are below K then. None: ones
    class_weights: Tensor | None = None
    # Which of their positives, of their negatives anchors have: "any", of the "same" group or of an "other" one
    positive_groups: str = "any"
    negative_groups: str = "any"

    @property
    def apart(self) -> bool:
        """Positives are not in Z."""
        return self.denominator != "all"

    @property
    def grouped(self) -> bool:
        return (self.positive_groups, self.negative_groups) != ("any", "any")


class Pairs(NamedTuple):
    """Which pairs there are, of those that their labels make."""

    # contrast row i + diagonal is anchor i itself, no pair of it; None: no anchor is among them. In the hash anchor i
    # has that number, or i: also before a bank, among whose rows is no anchor.
    diagonal: int | None
    mined: Tensor | None  # [4, N] of the anchors, see ``mining_thresholds``; None: all
    seed: Tensor | None  # [] int64, of the hash by which mined pairs are drawn


ALL_PAIRS = Pairs(None, None, None)


class Statistics(NamedTuple):
    """Of anchors, over all contrast sets: what the backward needs."""

    d_loss: Tensor  # [N] gradient of the loss of each
    log_sum: Tensor  # [N] log Z
    weight: Tensor  # [N] mean over positives of Z / (Z + e^s)
    mass: Tensor  # [N] sum of the weights of its positives: how many they are, where they have none
