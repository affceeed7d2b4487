"""Small folders of pictures and labels, as users have them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from data_layouts import write_image
from PIL import Image

from fastpixcon.training import config
from fastpixcon.training.config import Data
from fastpixcon.training.data import DataSet, open_dataset
from fastpixcon.training.description import Folder

SIZE = (24, 16)  # width, height, as write_image has it
COLOURS = np.array([(0, 0, 0), (128, 0, 0), (0, 200, 30), (9, 9, 250)], np.uint8)  # of 0, 1, 2, 3


def label_of(seed: int, ids: tuple[int, ...] = (0, 1, 2, 3)) -> np.ndarray:
    """[H, W], every id of ``ids`` in each."""
    rng = np.random.default_rng(seed)
    return rng.permutation(np.resize(np.array(ids), SIZE[0] * SIZE[1])).reshape(SIZE[::-1])


def write_ids(path: Path, raw: np.ndarray, dtype: type = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(raw.astype(dtype)).save(path)


def write_colours(path: Path, raw: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(COLOURS[raw]).save(path)


def write_palette(path: Path, raw: np.ndarray, colours: np.ndarray = COLOURS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(raw.astype(np.uint8), "P")
    picture.putpalette(colours.ravel().tolist())
    picture.save(path)


def write_pair(
    image: Path, label: Path, seed: int, write: Callable[[Path, np.ndarray], None] = write_ids
) -> np.ndarray:
    write_image(image, seed)
    raw = label_of(seed)
    write(label, raw)
    return raw


def build(root: Path, write: Callable[[Path, np.ndarray], None] = write_ids, suffix: str = ".png") -> np.ndarray:
    """images/ and labels/ of train and val, two pairs each; the label of the first to train."""
    for split in ("train", "val"):
        for i in range(2):
            image, label = root / "images" / split / f"{split}{i}.jpg", root / "labels" / split / f"{split}{i}{suffix}"
            write_pair(image, label, i, write)
    return label_of(0)


def data_of(root: Path, **folder: object) -> Data:
    return replace(
        config.load("camvid").data, name="folder", root=str(root), folder=Folder(**folder) if folder else None  # type: ignore[arg-type]
    )  # fmt: skip


def opened(root: Path, **folder: object) -> DataSet:
    return open_dataset(data_of(root, **folder))


def describe(root: Path, text: str) -> None:
    (root / "dataset.toml").write_text(text, encoding="utf-8")
