"""What every data set gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fastpixcon.training.description import Folder

IGNORE = 255  # label of pixels that do not count

Colour = tuple[int, int, int]


class Split(Protocol):
    """Images and labels by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image [3, H, W] uint8 and label [H, W] uint8, class ids and ``IGNORE``."""
        ...


@dataclass(frozen=True)
class DataSet:
    train: Split
    val: Split
    classes: Sequence[str]  # [K] names
    palette: Sequence[Colour]  # [K] RGB
    test: Split | None = None  # where the data set has labels for it
    no_test: str = "there are no test images in its folder"  # why, where it has not
    notes: tuple[str, ...] = ()  # what its user should know of how it was read, a line each
    described: Folder | None = None  # of a user's own folder: what its labels mean, to be kept with what is trained
    check: Callable[[], tuple[str, ...]] | None = None  # all files of all splits; more notes. None: each split's own


def distinct_colours(first: int, count: int) -> list[Colour]:
    """Colours ``first`` to ``first + count - 1`` of PASCAL VOC's map of 256, for data sets without a palette.

    Bit 3j of the number is bit 7 - j of red, 3j + 1 of green, 3j + 2 of blue, so no two are the same and 0 is black.
    """

    def channel(number: int, c: int) -> int:
        return sum((number >> (3 * j + c) & 1) << (7 - j) for j in range(3))

    return [(channel(i, 0), channel(i, 1), channel(i, 2)) for i in range(first, first + count)]
