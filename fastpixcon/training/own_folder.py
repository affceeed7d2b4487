"""Settings for a folder of a user's own pictures that comes without a config: those of ``configs/folder.toml``, changed
by what is in the folder. What the user has set stays."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastpixcon.training.config import Config, Schedule
from fastpixcon.training.data import DataSet
from fastpixcon.training.data.class_table import TABLES
from fastpixcon.training.data.folder import FolderFiles, ticks_of
from fastpixcon.training.data.layout import DESCRIPTION
from fastpixcon.training.data.names import pictures_in
from fastpixcon.training.optimisation import Length
from fastpixcon.training.rehearsal import map_size, network_multiple
from fastpixcon.training.text import as_path

SOURCE = "folder"  # the config
_CAMVID = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_")  # how the names of its images begin
_BATCH = 4
_ITERATIONS = 800  # about, of an arm
_MOST_EPOCHS = 100
_CROP, _LEAST_CROP = 320, 64  # px
_LARGE = 1280  # px of a side, from where crops see little of a picture
_TAKING_PART = 0.9  # of the segments of a class, and of the classes
_TSNE_PIXELS = 1650  # of all classes


def source_of(root: str) -> str:
    """The config for ``--data root`` without any: CamVid's for its own images without a description, else "folder"."""
    folder = as_path(root)
    if any(os.path.isfile(folder / name) for name in (DESCRIPTION, *TABLES)):
        return SOURCE
    for images in (folder / "images" / "train", folder / "train"):
        named = os.path.isdir(folder / ("labels" if images.parent.name == "images" else "trainannot"))
        if named and os.path.isdir(images) and any(_CAMVID.match(name) for name in pictures_in(images)[:1]):
            return "camvid"
    return SOURCE


def name_of(root: str) -> str:
    """Of the run: the folder's."""
    name = Path(os.path.realpath(as_path(root))).name if root else ""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.") or SOURCE


def settle(config: Config, data: DataSet, changes: Sequence[str]) -> tuple[Config, tuple[str, ...]]:
    """The config with what the folder decides, but for the keys of ``changes``, the user's ``key=value`` strings; and
    what was chosen, in lines."""
    given = {text.partition("=")[0].strip() for text in changes}
    train = data.train
    assert isinstance(train, FolderFiles)
    with ticks_of(len(train)) as ticks:
        train.look(ticks)  # unless its files were checked
    assert train.survey is not None
    if not train.survey.images:  # all are at fault, which whoever opened it says
        return config, ()
    images = len(train)
    schedule = config.schedule
    if "schedule.batch" not in given:
        schedule = replace(schedule, batch=max(min(_BATCH, images), 2))
    if not given & {"schedule.epochs", "schedule.iterations"}:
        epochs = min(max(round(_ITERATIONS * schedule.batch / images), 2), _MOST_EPOCHS)
        schedule = replace(schedule, epochs=epochs, iterations=None)
    total, epochs = _length(schedule, images)
    if "schedule.warmup" not in given:
        schedule = replace(schedule, warmup=min(total // 8, 90))
    if "schedule.evaluate_every" not in given:
        schedule = replace(schedule, evaluate_every=max(epochs // 2, 1))
    if "schedule.ema" not in given:
        schedule = replace(schedule, ema=0.99 if total >= 400 else 0.9 if total >= 100 else 0.0)
    augmentation, contrast = config.data.augmentation, config.contrast
    sides = _middle_sides(train)
    if "data.augmentation.crop" not in given:
        multiple = network_multiple(config.model)
        step = 32 if 32 % multiple == 0 else multiple
        height, width = (max(min(side, _CROP) // step, -(-_LEAST_CROP // step)) * step for side in sides)
        augmentation = replace(augmentation, crop=(height, width))
    config = replace(config, schedule=schedule, data=replace(config.data, augmentation=augmentation))
    if "contrast.warmup" not in given:
        contrast = replace(contrast, warmup=total // 4)
    if not given & {"contrast.min_pixels", "contrast.max_views"}:
        contrast = replace(contrast, min_pixels=_min_pixels(config, train))
    weights, figures = config.class_weights, config.figures
    if "class_weights" not in given:
        weights = _weights(train.survey.pixels)
    if "figures.tsne_pixels" not in given:
        figures = replace(figures, tsne_pixels=min(max(_TSNE_PIXELS // len(data.classes), 10), figures.tsne_pixels))
    config = replace(config, contrast=contrast, class_weights=weights, figures=figures)
    return config, _told(config, sides, total, epochs, "class_weights" in given)


def _length(schedule: Schedule, images: int) -> tuple[int, int]:
    """Iterations and epochs; (0, 1) where there is no whole batch, which is said later."""
    if images < schedule.batch:
        return 0, 1
    length = Length.of(schedule, images)
    return length.iterations, length.epochs


def _middle_sides(train: FolderFiles) -> tuple[int, int]:
    """Height and width, each the median of the labels."""
    assert train.survey is not None
    sizes = np.array([size for size, count in train.survey.sizes.items() for _ in range(count)])  # [n, 2] width, height
    width, height = np.median(sizes, axis=0).astype(int).tolist()
    return height, width


def _min_pixels(config: Config, train: FolderFiles) -> int | None:
    """The largest number, up to that of max_views, with which nine in ten segments of nine in ten classes take part, by
    the pixels that their labels have on a map; None: that of max_views does."""
    crop = config.data.augmentation.crop
    sides = (crop, crop) if isinstance(crop, int) else crop
    h, w = map_size(config)
    low, high = config.data.augmentation.scale
    factor = h * w / (sides[0] * sides[1]) * low * high  # pixels of a map a pixel of a label, in the middle
    found = [facts.pixels for facts in train.facts if facts.pixels is not None]
    pixels = np.stack(found)[:, : train.classes] * factor  # [n, K]
    small = [np.quantile(column[column > 0], 1 - _TAKING_PART) for column in pixels.T if (column > 0).any()]
    least = math.floor(float(np.quantile(small, 1 - _TAKING_PART))) if small else 0
    return None if least > config.contrast.max_views else max(least, 3)


def _weights(pixels: np.ndarray) -> tuple[float, ...]:
    """1 / ln(1.02 + share of the pixels), as in ENet (Paszke et al. 2016), over the mean of the classes that occur; 1
    for those that don't."""
    raw = 1 / np.log(1.02 + pixels / max(int(pixels.sum()), 1))  # [K]
    occurs = pixels > 0
    raw = np.where(occurs, raw / raw[occurs].mean() if occurs.any() else 1.0, 1.0)
    return tuple(float(f"{value:.3g}") for value in raw)


def _told(config: Config, sides: tuple[int, int], total: int, epochs: int, weighted: bool) -> tuple[str, ...]:
    crop = config.data.augmentation.crop
    height, width = (crop, crop) if isinstance(crop, int) else crop
    contrast, schedule = config.contrast, config.schedule
    least = contrast.min_pixels or contrast.max_views + 1
    weights = "class weights as given" if weighted else "classes weighted by 1 / ln(1.02 + share)"
    length = f"{epochs} {'epoch' if epochs == 1 else 'epochs'} ({total} iterations an arm)"
    lines = [
        f"chosen by the folder: {config.model.name}, crops of {width} x {height} px of pictures of about {sides[1]} x "
        f"{sides[0]}, batches of {schedule.batch}, {length}, {weights}; a class of an image takes part "
        f"in the contrast from {least} pixels of the map on. --set KEY=VALUE changes it, config.json has all of it"
    ]
    if max(sides) > _LARGE:
        lines.append(
            f"pictures are large, a crop is {100 * height * width / (sides[0] * sides[1]):.0f} % of one: smaller "
            f"copies, of some {_LARGE // 2} to {_LARGE} px, train faster, and better where things are large"
        )
    return tuple(lines)
