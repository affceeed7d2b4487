"""Which pairs count, and how much."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from fastpixcon.ops import checks

__all__ = ["PairRule", "Pairs", "rule_of"]

GROUPS = ("any", "same", "other")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which positives and negatives an anchor has beyond what the labels say, and what weighs them.

    >>> PixelContrastLoss(pairs=Pairs(balanced=True))        # a rare class weighs as much as the road
    >>> PixelContrastLoss(pairs=Pairs(positives="other"))    # positives of other images alone
    >>> PixelContrastLoss(pairs=Pairs(class_weights=1 - similarity))

    Args:
        positives: "any"; of the "same" group as the anchor; of an "other" one. Groups are images unless others are
            given; the rows of a memory are of no group, so "other" to all.
        negatives: the same.
        class_weights: W [K, K] floating >= 0, without gradient: in the sum over negatives e^s_ij counts
            W[y_i, y_j] times; 0 leaves these classes out of each other's sums. Labels are below K then. None: ones.
        balanced: every class weighs alike in the sum over negatives, however many rows it has in all contrast sets
            together (Zhu et al. 2022, "Balanced Contrastive Learning", class-averaging): its rows count
            (mean mass of the classes that occur) / (mass of its class) times, the mass being the sum of their weights.
            With class_weights the two multiply.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    positives: str = "any"
    negatives: str = "any"
    class_weights: Tensor | None = None
    balanced: bool = False

    def __post_init__(self) -> None:
        checks.one_of("positives", self.positives, GROUPS)
        checks.one_of("negatives", self.negatives, GROUPS)
        if not isinstance(self.balanced, bool):
            raise TypeError(f"balanced: got {self.balanced!r}, want a bool")
        if self.class_weights is not None:
            checks.class_weights(self.class_weights)


class PairRule(NamedTuple):
    """What :class:`Pairs` says, for what Dynamo traces."""

    positives: str = "any"
    negatives: str = "any"
    class_weights: Tensor | None = None  # [K, K]
    balanced: bool = False

    @property
    def grouped(self) -> bool:
        """Groups are looked at."""
        return (self.positives, self.negatives) != ("any", "any")


def rule_of(pairs: object) -> PairRule:
    """Of an argument ``pairs``, a :class:`Pairs` or None."""
    if pairs is None:
        return PairRule()
    if not isinstance(pairs, Pairs):
        raise TypeError(f"pairs: got {pairs!r}, want a fastpixcon.Pairs")
    return PairRule(pairs.positives, pairs.negatives, pairs.class_weights, pairs.balanced)
