"""Images, labels and what networks say of them."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from fastpixcon.training.config import Config
from fastpixcon.training.data import IGNORE, DataSet
from fastpixcon.training.evaluation import predict
from fastpixcon.training.figures.shown import Shown, spread
from fastpixcon.training.pictures import coloured, legend


def predictions(config: Config, data: DataSet, shown: Sequence[Shown], device: torch.device) -> Figure:
    """Image, label and every network's prediction, for images spread over val; errors keep their wrong class's
    colour, void is black."""
    chosen = spread(config.figures.predictions, len(data.val))
    columns: list[list[NDArray[Any]]] = [[], []]
    for index in chosen:
        image, label = data.val[index]
        columns[0].append(image.permute(1, 2, 0).numpy())
        columns[1].append(coloured(label, data.palette))
    for network in shown:
        maps = _chosen(network, data, config, device, chosen)
        pictures = []
        for index, prediction in zip(chosen, maps, strict=True):
            label = data.val[index][1]
            pictures.append(coloured(prediction[: label.shape[0], : label.shape[1]], data.palette, label == IGNORE))
        columns.append(pictures)
    height, width = columns[0][0].shape[:2]
    figure, axes = plt.subplots(
        len(chosen), len(columns), squeeze=False, layout="constrained",
        figsize=(3.2 * len(columns), 3.2 * len(chosen) * height / width + 1.1),
    )  # fmt: skip
    names = ["image", "label", *(network.title for network in shown)]
    for column, (name, pictures) in enumerate(zip(names, columns, strict=True)):
        axes[0][column].set_title(name, weight="bold", fontsize=11)
        for row, picture in enumerate(pictures):
            axes[row][column].imshow(picture, interpolation="nearest")
            axes[row][column].axis("off")
    handles = legend(data.classes, data.palette)
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=10)
    return figure


def _chosen(network: Shown, data: DataSet, config: Config, device: torch.device, chosen: list[int]) -> list[Tensor]:
    """Class maps [H, W], padded as in validation, of some validation images."""
    maps, first = {}, 0
    for images, _, logits in predict(network.model, data, config, device):
        for index in chosen:
            if first <= index < first + len(images):
                maps[index] = logits[index - first].argmax(0).cpu()
        first += len(images)
    return [maps[index] for index in chosen]
