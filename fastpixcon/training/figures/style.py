"""What all figures share."""

import math
from typing import Any

import matplotlib

matplotlib.use("Agg")

STYLE: Any = {
    "figure.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 10,
    "legend.frameon": False,
}
_COLOURS = {
    "ce": "#4c72b0",
    "ce+contrast": "#dd5f32",
    "ce+contrast+memory": "#2a9d6f",
    "ce+contrast+mining": "#b59b2b",
    "ce+contrast+memory+mining": "#8254a8",
}


def arm_colour(name: str) -> str:
    return _COLOURS.get(name, "#555555")


def rows_and_columns(panels: int) -> tuple[int, int]:
    """Three panels fit beside each other; four are two rows of two."""
    rows = math.ceil(panels / 3)
    return rows, math.ceil(panels / rows)
