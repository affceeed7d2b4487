"""Class ids as colours."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from fastpixcon.training.data import IGNORE


def coloured(label: Tensor, palette: Sequence[tuple[int, int, int]], void: Tensor | None = None) -> NDArray[Any]:
    """[H, W] class ids -> [H, W, 3] uint8; void, and where ``void`` [H, W] says so, is black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(palette)] = palette
    table[IGNORE] = 0
    ids = label.numpy().astype(np.uint8)
    if void is not None:
        ids = np.where(void.numpy(), IGNORE, ids)
    picture: NDArray[Any] = table[ids]
    return picture


def legend(classes: Sequence[str], palette: Sequence[tuple[int, int, int]]) -> list[Patch]:
    return [
        Patch(facecolor="#{:02x}{:02x}{:02x}".format(*colour), edgecolor="#888888", linewidth=0.5, label=name)
        for name, colour in zip(classes, palette, strict=True)
    ]
