"""Pictures of a finished run: learning curves, predictions beside labels, t-SNE of pixel embeddings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from torch import Tensor

from fastpixcon.training.checkpoint import write_atomically
from fastpixcon.training.config import Config
from fastpixcon.training.data import IGNORE, DataSet
from fastpixcon.training.engine import Arm

_ARM_COLOURS = {"ce": "#4c72b0", "ce+contrast": "#dd5f32"}
_STYLE: Any = {
    "figure.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 10,
    "legend.frameon": False,
}


def draw_all(config: Config, data: DataSet, arms: Sequence[Arm], folder: Path) -> list[Path]:
    """Draw every figure into ``folder``; returns the files."""
    folder.mkdir(exist_ok=True)
    figures = {
        "curves.png": learning_curves(config, arms),
        "predictions.png": predictions(config, data, arms),
        "tsne.png": tsne(config, data, arms),
    }
    paths = []
    for name, figure in figures.items():
        paths.append(folder / name)
        write_atomically(paths[-1], lambda file, figure=figure: figure.savefig(file, format="png", dpi=130))  # type: ignore[misc]
        plt.close(figure)
    return paths


def learning_curves(config: Config, arms: Sequence[Arm]) -> Figure:
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
        axis: Any
        for arm in arms:
            colour, history = _ARM_COLOURS[arm.name], arm.history
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


def predictions(config: Config, data: DataSet, arms: Sequence[Arm]) -> Figure:
    """Image, label and each arm's prediction, for images spread over val; errors keep their wrong class's colour."""
    count = min(config.figures.predictions, len(data.val))
    chosen = np.linspace(0, len(data.val) - 1, count).round().astype(int).tolist()
    columns: list[list[NDArray[Any]]] = [[], []]
    for index in chosen:
        image, label = data.val[index]
        columns[0].append(image.permute(1, 2, 0).numpy())
        columns[1].append(_coloured(label, data))
    for arm in arms:
        maps = _chosen_predictions(arm, chosen)
        shown = []
        for index, prediction in zip(chosen, maps, strict=True):
            label = data.val[index][1]
            shown.append(_coloured(prediction[: label.shape[0], : label.shape[1]], data, label == IGNORE))
        columns.append(shown)
    height, width = columns[0][0].shape[:2]
    figure, axes = plt.subplots(
        count, len(columns), squeeze=False, layout="constrained",
        figsize=(3.2 * len(columns), 3.2 * count * height / width + 1.1),
    )  # fmt: skip
    names = ["image", "label", *(f"{a.name}: mIoU {100 * a.history.evaluations[-1]['miou']:.1f} %" for a in arms)]
    for column, (name, pictures) in enumerate(zip(names, columns, strict=True)):
        axes[0][column].set_title(name, weight="bold", fontsize=11)
        for row, picture in enumerate(pictures):
            axes[row][column].imshow(picture, interpolation="nearest")
            axes[row][column].axis("off")
    figure.legend(handles=_legend(data), loc="outside lower center", ncols=6, frameon=False, fontsize=10)
    return figure


def tsne(config: Config, data: DataSet, arms: Sequence[Arm]) -> Figure:
    """One panel per arm, the same validation pixels in both."""
    figure, axes = plt.subplots(1, len(arms), figsize=(7 * len(arms), 7.4), squeeze=False, layout="constrained")
    palette = np.array(data.palette) / 255
    for axis, arm in zip(axes[0], arms, strict=True):
        rows, labels = _pixel_rows(arm, config.figures.tsne_pixels, config.seed)
        perplexity = min(30.0, (len(rows) - 1) / 3)
        points = TSNE(perplexity=perplexity, init="pca", metric="cosine", random_state=config.seed).fit_transform(rows)
        axis.scatter(*points.T, c=palette[labels], s=11, linewidths=0.2, edgecolors="#00000060")
        several = 1 < len(set(labels.tolist())) < len(rows)
        silhouette = silhouette_score(rows, labels, metric="cosine") if several else float("nan")
        which = "projected embeddings" if arm.contrast else "decoder features, as its head is untrained"
        axis.set_title(f"{arm.name}\n{which}; silhouette {silhouette:.2f}", weight="bold")
        axis.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
        for spine in axis.spines.values():
            spine.set_color("#cccccc")
    figure.suptitle(f"{config.name}: t-SNE of validation pixels, coloured by label", color="grey")
    figure.legend(handles=_legend(data), loc="outside lower center", ncols=6, frameon=False, fontsize=10)
    return figure


@torch.no_grad()
def _pixel_rows(arm: Arm, per_class: int, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Unit rows [n, D] and labels [n] of random validation pixels, at most ``per_class`` of each class."""
    all_rows, all_labels = [], []
    generator = torch.Generator().manual_seed(seed)
    model = arm.model
    for images, labels, _ in arm.predict_val():
        features = model.features(images)
        rows = model.projection(features) if arm.contrast else features  # [B, D, h, w]
        small = F.interpolate(labels[:, None].float(), rows.shape[-2:], mode="nearest")[:, 0].long()  # [B, h, w]
        for k in range(len(arm.data.classes)):
            where = (small == k).nonzero().cpu()  # [n, 3]
            # A few of each batch, so that many images are seen; cut to the limit below.
            b, y, x = where[torch.randperm(len(where), generator=generator)[: max(per_class // 4, 4)]].T
            all_rows.append(F.normalize(rows[b, :, y, x].float(), dim=1).cpu())
            all_labels.append(torch.full((len(b),), k))
    rows, labels = torch.cat(all_rows), torch.cat(all_labels)
    kept = []
    for k in range(len(arm.data.classes)):
        where = (labels == k).nonzero()[:, 0]
        kept.append(where[torch.randperm(len(where), generator=generator)[:per_class]])
    chosen = torch.cat(kept)
    return rows[chosen].numpy(), labels[chosen].numpy()


def _chosen_predictions(arm: Arm, chosen: list[int]) -> list[Tensor]:
    """Class maps [H, W], padded as in validation, of some validation images."""
    maps, first = {}, 0
    for images, _, logits in arm.predict_val():
        for index in chosen:
            if first <= index < first + len(images):
                maps[index] = logits[index - first].argmax(0).cpu()
        first += len(images)
    return [maps[index] for index in chosen]


def _coloured(label: Tensor, data: DataSet, void: Tensor | None = None) -> NDArray[Any]:
    """[H, W] class ids -> [H, W, 3] uint8; void is black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(data.palette)] = data.palette
    ids = label.numpy().astype(np.uint8)
    if void is not None:
        ids = np.where(void.numpy(), IGNORE, ids)
    coloured: NDArray[Any] = table[ids]
    return coloured


def _legend(data: DataSet) -> list[Patch]:
    return [
        Patch(facecolor="#{:02x}{:02x}{:02x}".format(*colour), edgecolor="#888888", linewidth=0.5, label=name)
        for name, colour in zip(data.classes, data.palette, strict=True)
    ]


def _smooth(values: NDArray[Any], span: int = 21) -> NDArray[Any]:
    """Running mean; shorter at the ends."""
    span = min(span, len(values))
    ones = np.ones(span)
    smooth: NDArray[Any] = np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")
    return smooth
