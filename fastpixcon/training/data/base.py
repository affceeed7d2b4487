"""What every data set gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

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
