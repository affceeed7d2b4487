"""What a network says of a user's own images."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fastpixcon.training import TrainingError
from fastpixcon.training.data.decoding import image_header, read_image, without_warnings
from fastpixcon.training.evaluation import upsample
from fastpixcon.training.figures.embeddings import cosines_with
from fastpixcon.training.figures.shown import Shown
from fastpixcon.training.pictures import coloured, legend


def image_of(path: Path) -> Tensor:
    """[3, H, W] uint8, as it is shown; ``decoding`` says what is read and what is not."""
    with without_warnings():
        return torch.from_numpy(read_image(str(path))).permute(2, 0, 1).contiguous()


def check_images(paths: Sequence[Path], pixel: tuple[int, int] | None = None) -> None:
    """Raise ``TrainingError`` for the first that its header tells can't be read, or that has no ``pixel`` (x, y)."""
    with without_warnings():
        for path in paths:
            width, height = image_header(str(path)).size
            if pixel and not (0 <= pixel[0] < width and 0 <= pixel[1] < height):
                x, y = pixel
                raise TrainingError(f"--pixel: got {x},{y}, want x below {width} and y below {height} for {path}")


@contextlib.contextmanager
def enough_memory(path: Path, image: Tensor) -> Iterator[None]:
    """What a network takes of an image [3, H, W] may be a thousand times its size."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        height, width = image.shape[-2:]
        raise TrainingError(f"{path}: {width}x{height} px are more than the network has memory for") from None


@torch.no_grad()
def class_map(shown: Shown, image: Tensor, device: torch.device) -> Tensor:
    """[3, H, W] uint8 -> class ids [H, W]."""
    height, width = image.shape[-2:]
    inputs = shown.padded(image).to(device)
    shown.model.eval()
    logits = upsample(shown.model(inputs)["logits"], tuple(inputs.shape[-2:]))  # [1, K, H, W]
    return logits[0, :, :height, :width].argmax(0).cpu()


def embedding_map(shown: Shown, image: Tensor, device: torch.device) -> Tensor:
    """[3, H, W] uint8 -> embeddings [D, h, w], float32, of length 1 along D.

    A place of the map is a square of H' / h x W' / w pixels, H' and W' the next multiples of 32, or of a transformer's
    patch, to which the image is padded at its right and lower end; places outside the image are left out.
    """
    height, width = image.shape[-2:]
    inputs = shown.padded(image).to(device)
    rows = shown.rows(inputs)[0]  # [D, h', w']
    h, w = (-(-side * rows.shape[i] // inputs.shape[i + 1]) for i, side in ((1, height), (2, width)))
    return rows[:, :h, :w].contiguous().cpu()


def segmented(image: Tensor, ids: Tensor, classes: Sequence[str], palette: Sequence[tuple[int, int, int]]) -> Figure:
    """The image, and its classes in colour over it."""
    picture = image.permute(1, 2, 0).numpy()
    height, width = picture.shape[:2]
    figure, axes = plt.subplots(1, 2, figsize=(12, 6 * height / width + 1), layout="constrained")
    axes[0].imshow(picture)
    axes[1].imshow(0.35 * picture / 255 + 0.65 * coloured(ids, palette) / 255)
    for axis in axes:
        axis.axis("off")
    there = [k for k in range(len(classes)) if bool((ids == k).any())]
    handles = legend([classes[k] for k in there], [palette[k] for k in there])
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False)
    return figure


def similar(shown: Shown, image: Tensor, pixel: tuple[int, int], device: torch.device) -> Figure:
    """The image with the pixel (y, x), and the cosine of every other with it."""
    height, width = image.shape[-2:]
    figure, axes = plt.subplots(1, 2, figsize=(13, 6 * height / width + 0.6), layout="constrained")
    _draw_similar(axes, shown, image, pixel, device)
    return figure


def similar_window(shown: Shown, image: Tensor, device: torch.device) -> None:
    """A window: each click on the image draws the map of the pixel there. Returns when it is closed."""
    try:
        plt.switch_backend("TkAgg")
    except ImportError as error:
        raise TrainingError(f"--click: no window can be opened here ({error}); want --pixel X,Y") from None
    height, width = image.shape[-2:]
    figure, axes = plt.subplots(1, 2, figsize=(13, 6 * height / width + 0.6), layout="constrained")

    def clicked(event: Any) -> None:
        if event.inaxes is axes[0] and event.xdata is not None:
            _draw_similar(axes, shown, image, (round(event.ydata), round(event.xdata)), device)
            figure.canvas.draw_idle()

    _draw_similar(axes, shown, image, (height // 2, width // 2), device)
    figure.canvas.mpl_connect("button_press_event", clicked)
    plt.show()


def _draw_similar(axes: Any, shown: Shown, image: Tensor, pixel: tuple[int, int], device: torch.device) -> None:
    y, x = pixel
    for axis in axes:
        axis.clear()
        axis.axis("off")
    axes[0].imshow(image.permute(1, 2, 0).numpy())
    heat = axes[1].imshow(cosines_with(shown, image, pixel, device).numpy(), vmin=-1, vmax=1, cmap="RdBu_r")
    for axis in axes:
        axis.plot(x, y, "o", markersize=9, markerfacecolor="none", markeredgecolor="#00ff66", markeredgewidth=2)
    axes[1].set_title(f"{shown.name}: cosine with ({x}, {y})")
    if not axes[1].figure.axes[2:]:
        axes[1].figure.colorbar(heat, ax=axes[1], shrink=0.8)
