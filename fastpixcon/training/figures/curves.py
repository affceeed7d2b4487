"""How the losses and the score went."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fastpixcon.training.config import Config
from fastpixcon.training.engine import Arm
from fastpixcon.training.figures.style import STYLE, arm_colour


def learning_curves(config: Config, arms: Sequence[Arm]) -> Figure:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
        axis: Any
        for arm in arms:
            colour, history = arm_colour(arm.name), arm.history
            losses: list[Sequence[float | None]] = [history.cross_entropy, history.contrast]
            for axis, values in zip(axes, losses, strict=False):
                points = [(i + 1, v) for i, v in enumerate(values) if v is not None]
                if points:
                    x, y = np.array(points).T
                    axis.plot(x, y, color=colour, alpha=0.2, linewidth=0.8)
                    axis.plot(x, _smooth(y), color=colour, label=arm.name, linewidth=1.8)
            evaluations = history.evaluations
            miou = [100 * e["miou"] for e in evaluations]
            label = f"{arm.name}: {miou[-1]:.1f}"
            axes[2].plot([e["iteration"] for e in evaluations], miou, "o-", color=colour, markersize=4, label=label)
        titles = ("Cross-entropy on train", "Pixel contrast on train", "mIoU on val, %")
        for axis, title in zip(axes, titles, strict=True):
            axis.set(title=title, xlabel="iteration", xlim=(0, arms[0].iterations))
            axis.title.set_weight("bold")
            if axis.lines:
                axis.legend(loc="best")
            else:
                axis.text(0.5, 0.5, "not computed", transform=axis.transAxes, ha="center", color="grey")
        figure.suptitle(f"{config.name}, seed {config.seed}", x=0.01, ha="left", color="grey")
        return figure


def _smooth(values: NDArray[Any], span: int = 21) -> NDArray[Any]:
    """Running mean; shorter at the ends."""
    span = min(span, len(values))
    ones = np.ones(span)
    smooth: NDArray[Any] = np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")
    return smooth
