"""Pictures of a finished run and of trained networks."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from fastpixcon.training.checkpoint import write_atomically
from fastpixcon.training.config import Config
from fastpixcon.training.data import DataSet
from fastpixcon.training.engine import Arm
from fastpixcon.training.figures.confusion import confusions
from fastpixcon.training.figures.curves import learning_curves
from fastpixcon.training.figures.embeddings import similarity, tsne
from fastpixcon.training.figures.predictions import predictions
from fastpixcon.training.figures.shown import Shown

__all__ = ["Shown", "confusions", "draw_all", "learning_curves", "predictions", "similarity", "tsne", "write"]


def draw_all(config: Config, data: DataSet, arms: Sequence[Arm], folder: Path) -> list[Path]:
    """Draw every figure of a run into ``folder``; returns the files."""
    folder.mkdir(exist_ok=True)
    shown = [Shown.of(arm) for arm in arms]
    device = arms[0].runtime.device
    last = {arm.name: arm.history.evaluations[-1]["confusion"] for arm in arms}
    figures = {
        "curves.png": learning_curves(config, arms),
        "predictions.png": predictions(config, data, shown, device),
        "tsne.png": tsne(config, data, shown, device),
        "similarity.png": similarity(config, data, shown, device),
        "confusion.png": confusions(last, data.classes),
    }
    return [write(figure, folder / name) for name, figure in figures.items()]


def write(figure: Figure, path: Path) -> Path:
    """As a PNG."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=130))
    plt.close(figure)
    return path
