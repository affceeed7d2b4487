"""Hard-example mining: which of its negatives and positives an anchor keeps."""

from dataclasses import dataclass
from numbers import Real

from fastpixcon.ops import checks
from fastpixcon.ops.mining_thresholds import KINDS

__all__ = ["Mining"]


@dataclass(frozen=True)
class Mining:
    """What every anchor keeps of its pairs, anew every step (Wang et al. 2021, hard example sampling).

    >>> PixelContrastLoss(memory=MemoryBank(19, 256), mining=Mining())

    Args:
        negatives: "none": all of them; "hardest": the ``keep`` of largest cosine; "semi-hard": ``keep`` at random of
            the ``fraction`` of largest cosine; "random": ``keep`` at random of all.
        positives: the same, where the hardest have the smallest cosine.
        fraction: of the pairs, that "semi-hard" draws from, in (0, 1].
        keep: how many positives, how many negatives. Of random ones that many on average: each is kept by itself.

    A threshold is found to 1/512 of a cosine, on the easy side: "hardest" may keep a few more than asked for.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    negatives: str = "semi-hard"
    positives: str = "semi-hard"
    fraction: float = 0.1
    keep: tuple[int, int] = (1024, 2048)

    def __post_init__(self) -> None:
        checks.one_of("negatives", self.negatives, KINDS)
        checks.one_of("positives", self.positives, KINDS)
        if isinstance(self.fraction, bool) or not isinstance(self.fraction, Real):
            raise TypeError(f"fraction: got {self.fraction!r}, want a number in (0, 1]")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction: got {self.fraction}, want a number in (0, 1]")
        if not isinstance(self.keep, (tuple, list)) or len(self.keep) != 2:
            raise TypeError(f"keep: got {self.keep!r}, want two ints > 0, of positives and of negatives")
        for value in self.keep:
            checks.positive_int("keep", value)
