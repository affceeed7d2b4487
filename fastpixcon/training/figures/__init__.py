"""Pictures of a finished run and of trained networks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from fastpixcon.training import OutputLostError, TrainingError, writing
from fastpixcon.training.config import Config
from fastpixcon.training.data import DataSet
from fastpixcon.training.engine import Arm
from fastpixcon.training.figures.confusion import confusions
from fastpixcon.training.figures.curves import learning_curves
from fastpixcon.training.figures.embeddings import similarity, tsne
from fastpixcon.training.figures.inspection import inspected
from fastpixcon.training.figures.predictions import predictions
from fastpixcon.training.figures.shown import Shown

__all__ = [
    "Shown", "attempt", "confusions", "draw_all", "inspected", "learning_curves", "predictions", "similarity", "tsne",
]  # fmt: skip

Write = Callable[[Path, Callable[[BinaryIO], object]], None]


def draw_all(config: Config, data: DataSet, arms: Sequence[Arm], folder: Path) -> tuple[list[Path], list[str]]:
    """Draw every figure of a run into ``folder``; returns the files, and a line for each that could not be drawn."""
    writing.make_folder(folder, "figures")
    shown = [Shown.of(arm) for arm in arms]
    device = arms[0].runtime.device
    last = {arm.name: arm.history.evaluations[-1]["confusion"] for arm in arms}
    figures: dict[str, Callable[[], Figure]] = {
        "curves.png": lambda: learning_curves(config, arms),
        "predictions.png": lambda: predictions(config, data, shown, device),
        "tsne.png": lambda: tsne(config, data, shown, device),
        "similarity.png": lambda: similarity(config, data, shown, device),
        "confusion.png": lambda: confusions(last, data.classes),
    }
    failed = {folder / name: attempt(make, folder / name) for name, make in figures.items()}
    return [path for path, line in failed.items() if not line], [line for line in failed.values() if line]


def attempt(make: Callable[[], Figure], path: Path, write: Write = writing.write) -> str:
    """Draw a figure and write it as a PNG; "", or a line that says why there is none: a picture is no reason to end."""
    try:
        figure = make()
        write(path, lambda file: figure.savefig(file, format="png", dpi=130))
    except OutputLostError:
        raise
    except Exception as error:
        return f"{path}: not drawn: {reason(error)}"
    finally:
        plt.close("all")
    return ""


def reason(error: Exception) -> str:
    """In a line."""
    if isinstance(error, TrainingError):
        return str(error)
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}{text and f': {text}'}"
