"""Which class is taken for which."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from fastpixcon.training.figures.style import rows_and_columns


def confusions(counts: Mapping[str, Sequence[Sequence[int]]], classes: Sequence[str]) -> Figure:
    """Name of a network -> counts [K, K], rows are true classes; shown as shares of the true class."""
    size = 1.5 + 0.34 * len(classes)
    rows, columns = rows_and_columns(len(counts))
    figure, axes = plt.subplots(
        rows, columns, figsize=(size * columns + 1.2, (size + 0.4) * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(counts) :]:
        axis.axis("off")
    write_numbers = len(classes) <= 20
    for number, (axis, (name, table)) in enumerate(zip(axes.flat, counts.items(), strict=False)):
        numbers = np.array(table, dtype=float)
        shares = 100 * numbers / np.maximum(numbers.sum(1, keepdims=True), 1)
        axis.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=10)  # square roots: errors are small
        ticks = range(len(classes))
        axis.set_xticks(ticks, classes, rotation=90, fontsize=8)
        axis.set_yticks(ticks, classes if number % columns == 0 else [""] * len(classes), fontsize=8)
        axis.set_title(f"{name}: % of the true class", weight="bold", fontsize=10)
        axis.set_xlabel("predicted")
        if number % columns == 0:
            axis.set_ylabel("true")
        if write_numbers:
            for i, row in enumerate(shares):
                for j, share in enumerate(row):
                    if share >= 0.5:
                        colour = "white" if share > 45 else "black"
                        axis.text(j, i, f"{share:.0f}", ha="center", va="center", fontsize=7, color=colour)
    return figure
