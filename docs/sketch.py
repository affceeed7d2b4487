"""What the pictures are drawn with: figures, boxes, arrows, and constants of the sources."""

import re
from pathlib import Path
from typing import Any

from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

ROOT = Path(__file__).resolve().parents[1]
INK, PALE, LINE = "#1f2933", "#e4e9ef", "#8894a3"
BLUE, RED, GREEN, YELLOW, VIOLET = "#3b74b5", "#c8553d", "#3f9b6c", "#e0a72e", "#7b5ea7"
COLOURS = (BLUE, RED, GREEN, YELLOW, VIOLET)


def constant(path: str, name: str) -> int:
    """The number that ``name`` is set to in a C++ source, by a constexpr or a #define."""
    text = (ROOT / path).read_text(encoding="utf-8")
    found = re.search(rf"\b{name}(?:\s*=\s*|\s+)(\d+)\b", text)
    if found is None:
        raise ValueError(f"{path}: no constant {name}")
    return int(found[1])


def figure(width: float, height: float, across: int = 1, ratios: list[float] | None = None) -> tuple[Figure, list[Any]]:
    fig = Figure(figsize=(width, height), layout="constrained")
    axes = fig.subplots(1, across, squeeze=False, width_ratios=ratios)[0]
    for ax in axes:
        ax.set_axis_off()
    return fig, list(axes)


def box(ax: Any, x: float, y: float, w: float, h: float, fill: str = PALE, text: str = "", **more: Any) -> None:
    # Not clipped: of a box at the edge of its axes half a line would be left.
    style: dict[str, Any] = {"facecolor": fill, "edgecolor": LINE, "linewidth": 0.8, "clip_on": False} | more
    ax.add_patch(Rectangle((x, y), w, h, **style)).set_in_layout(False)  # or the layout measures each of thousands
    if text:
        ax.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=8, color=INK)


def cells(ax: Any, corners: list[tuple[float, float]], fill: str, width: float) -> None:
    """Unit squares."""
    style: dict[str, Any] = {"facecolor": fill, "edgecolor": LINE, "linewidth": width, "clip_on": False}
    squares = PatchCollection([Rectangle(at, 1, 1) for at in corners], **style)
    ax.add_collection(squares).set_in_layout(False)


def arrow(ax: Any, start: tuple[float, float], end: tuple[float, float], colour: str = INK, **more: Any) -> None:
    style: dict[str, Any] = {
        "arrowstyle": "-|>",
        "mutation_scale": 9,
        "linewidth": 1,
        "color": colour,
        "clip_on": False,
    }
    style |= more
    ax.add_patch(FancyArrowPatch(start, end, **style)).set_in_layout(False)


def square(ax: Any, n: float, title: str, m: float | None = None) -> None:
    """Matrix axes: rows go down."""
    ax.set_xlim(-0.02 * n, n * 1.02)
    ax.set_ylim((m or n) * 1.02, -0.02 * (m or n))
    ax.set_aspect("equal")
    ax.set_title(title, fontsize=9, color=INK)
