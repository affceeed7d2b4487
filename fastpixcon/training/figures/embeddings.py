"""Embeddings of pixels: t-SNE, and how similar all others are to one."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from fastpixcon.training.config import Config
from fastpixcon.training.data import IGNORE, DataSet
from fastpixcon.training.data.loading import val_loader, worker_count
from fastpixcon.training.figures.shown import Shown, spread
from fastpixcon.training.figures.style import rows_and_columns
from fastpixcon.training.pictures import legend

Pixel = tuple[int, int, int]  # image of val, y, x


def tsne(
    config: Config,
    data: DataSet,
    shown: Sequence[Shown],
    device: torch.device,
    seen: Callable[[int], object] = lambda images: None,
) -> Figure:
    """One panel a network, of the same validation pixels; ``seen`` is called with the images of every batch."""
    from sklearn.manifold import TSNE  # a second or two of import
    from sklearn.metrics import silhouette_score

    rows, columns = rows_and_columns(len(shown))
    size = (7 * columns, 7 * rows + 0.4)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    palette = np.array(data.palette) / 255
    for axis, network in zip(axes.flat, shown, strict=False):
        units, labels = _pixel_rows(network, data, config, device, seen)  # [n, D], [n]
        perplexity = min(30.0, (len(units) - 1) / 3)
        points = TSNE(perplexity=perplexity, init="pca", metric="cosine", random_state=config.seed).fit_transform(units)
        axis.scatter(*points.T, c=palette[labels], s=11, linewidths=0.2, edgecolors="#00000060")
        several = 1 < len(set(labels.tolist())) < len(units)
        silhouette = silhouette_score(units, labels, metric="cosine") if several else float("nan")
        which = "projected embeddings" if network.contrasts else "decoder features, as its head is untrained"
        axis.set_title(f"{network.name}\n{which}; silhouette {silhouette:.2f}", weight="bold")
        axis.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
        for spine in axis.spines.values():
            spine.set_color("#cccccc")
    figure.suptitle(f"{config.name}: t-SNE of validation pixels, coloured by label", color="grey")
    handles = legend(data.classes, data.palette)
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=10)
    return figure


def similarity(
    config: Config,
    data: DataSet,
    shown: Sequence[Shown],
    device: torch.device,
    pixels: Sequence[Pixel] | None = None,
) -> Figure:
    """Cosine of every pixel's embedding with that of the marked one. ``pixels``: by default one of every image that
    predictions show, from the middle of its rarest class there."""
    if pixels is None:
        pixels = [_telling_pixel(data, index) for index in spread(config.figures.predictions, len(data.val))]
    height, width = data.val[pixels[0][0]][1].shape
    figure, axes = plt.subplots(
        len(pixels), 1 + len(shown), squeeze=False, layout="constrained",
        figsize=(3.4 * (1 + len(shown)) + 0.6, 3.4 * len(pixels) * height / width + 0.6),
    )  # fmt: skip
    heat: Any = None
    for row, (index, y, x) in zip(axes, pixels, strict=True):
        image, label = data.val[index]
        name = "void" if int(label[y, x]) == IGNORE else data.classes[int(label[y, x])]
        row[0].imshow(image.permute(1, 2, 0).numpy())
        row[0].set_title(f"image {index}, ({x}, {y}): {name}", fontsize=10)
        for axis, network in zip(row[1:], shown, strict=True):
            cosines = cosines_with(network, image, (y, x), device)
            heat = axis.imshow(cosines.numpy(), vmin=-1, vmax=1, cmap="RdBu_r")
            axis.set_title(network.name, fontsize=10, weight="bold")
        for axis in row:
            axis.plot(x, y, "o", markersize=7, markerfacecolor="none", markeredgecolor="#00ff66", markeredgewidth=2)
            axis.axis("off")
    figure.colorbar(heat, ax=axes[:, -1].tolist(), label="cosine", shrink=0.7)
    return figure


def cosines_with(network: Shown, image: Tensor, pixel: tuple[int, int], device: torch.device) -> Tensor:
    """Image [3, H, W] uint8, pixel (y, x) -> cosine of every pixel with it, [H, W]."""
    height, width = image.shape[-2:]
    inputs = network.padded(image).to(device)
    rows = network.rows(inputs)[0]  # [D, h, w]
    h, w = rows.shape[-2:]
    y, x = pixel[0] * h // inputs.shape[-2], pixel[1] * w // inputs.shape[-1]
    cosines = torch.einsum("dhw,d->hw", rows, rows[:, y, x])
    wide = F.interpolate(cosines[None, None], inputs.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
    return wide[:height, :width].cpu()


def _telling_pixel(data: DataSet, index: int) -> Pixel:
    """Of the rarest class with a thousandth of the pixels, the pixel of it nearest to its mean place."""
    label = data.val[index][1]
    classes, counts = label[label != IGNORE].unique(return_counts=True)
    if not len(classes):
        return index, label.shape[0] // 2, label.shape[1] // 2
    enough = counts >= label.numel() // 1000
    counts = torch.where(enough, counts, counts.max() + 1)
    where = (label == classes[counts.argmin()]).nonzero().float()  # [n, 2]
    y, x = where[(where - where.mean(0)).norm(dim=1).argmin()].long().tolist()
    return index, y, x


@torch.no_grad()
def _pixel_rows(
    network: Shown, data: DataSet, config: Config, device: torch.device, seen: Callable[[int], object]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Unit rows [n, D] and labels [n] of random validation pixels, at most ``tsne_pixels`` of each class."""
    per_class = config.figures.tsne_pixels
    all_rows, all_labels = [], []
    generator = torch.Generator().manual_seed(config.seed)
    workers, multiple = worker_count(config.data.workers, device), network.model.padding
    for images, labels in val_loader(data.val, config.schedule.batch, workers, multiple=multiple):
        rows = network.rows(images.to(device))  # [B, D, h, w]
        small = F.interpolate(labels[:, None].float(), rows.shape[-2:], mode="nearest")[:, 0].long()  # [B, h, w]
        for k in range(len(data.classes)):
            where = (small == k).nonzero()  # [n, 3]
            # A few of each batch, so that many images are seen; cut to the limit below.
            b, y, x = where[torch.randperm(len(where), generator=generator)[: max(per_class // 4, 4)]].T
            all_rows.append(rows[b, :, y, x].cpu())
            all_labels.append(torch.full((len(b),), k))
        seen(len(images))
    rows, labels = torch.cat(all_rows), torch.cat(all_labels)
    kept = []
    for k in range(len(data.classes)):
        where = (labels == k).nonzero()[:, 0]
        kept.append(where[torch.randperm(len(where), generator=generator)[:per_class]])
    chosen = torch.cat(kept)
    return rows[chosen].numpy(), labels[chosen].numpy()
