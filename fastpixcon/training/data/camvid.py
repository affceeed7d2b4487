"""CamVid: images/{train,val}/NAME.jpg and labels/{train,val}/NAME.png, 11 classes and void."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastpixcon.training import TrainingError
from fastpixcon.training.config import Data
from fastpixcon.training.data.base import IGNORE, DataSet

# Name and RGB of each id, in the order of the ids.
_CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
_VOID = 11
_UNKNOWN = 254  # ids that the data set does not have; never reaches training


def id_table(train_ids: dict[int, int]) -> Tensor:
    """Raw id -> train id, [256] uint8; ids that are not named become ``_UNKNOWN``."""
    table = torch.full((256,), _UNKNOWN, dtype=torch.uint8)
    for raw, train_id in train_ids.items():
        table[raw] = train_id
    return table


class _Files:
    """A split whose images and labels lie in two folders under the same names."""

    def __init__(self, images: Sequence[Path], labels: Sequence[Path], table: Tensor) -> None:
        self.images, self.labels, self.table = images, labels, table

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with Image.open(self.images[index]) as file:
            image = torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)  # [3, H, W]
        with Image.open(self.labels[index]) as file:
            raw = torch.from_numpy(np.array(file))  # [H, W]
        return image.contiguous(), self.table[raw.long()]


def camvid(config: Data) -> DataSet:
    """Opens the folder ``config.root`` and checks every file of it."""
    root = Path(config.root)
    if not config.root or not root.is_dir():
        raise TrainingError(f"data.root: got {config.root!r}, want CamVid's folder (--data DIR)")
    table = id_table({i: i for i in range(len(_CLASSES))} | {_VOID: IGNORE})
    train, val = (_open(root, split, table) for split in ("train", "val"))
    return DataSet(train, val, list(_CLASSES), list(_CLASSES.values()))


def _open(root: Path, split: str, table: Tensor) -> _Files:
    images = _names(root / "images" / split, ".jpg")
    labels = _names(root / "labels" / split, ".png")
    if images.keys() != labels.keys():
        alone = sorted(images.keys() ^ labels.keys())
        where = "images" if alone[0] in images else "labels"
        raise TrainingError(
            f"{root}: {split} has {len(images)} images and {len(labels)} labels; {len(alone)} have no partner, "
            f"the first is {alone[0]} in {where}/{split}"
        )
    for name, label in labels.items():
        _check(images[name], label, table)
    return _Files(list(images.values()), list(labels.values()), table)


def _names(folder: Path, suffix: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise TrainingError(f"{folder}: no such folder, want files NAME{suffix} in it")
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix == suffix}
    if not files:
        raise TrainingError(f"{folder}: empty, want files NAME{suffix} in it")
    return files


def _check(image: Path, label: Path, table: Tensor) -> None:
    try:
        with Image.open(image) as file:
            size = file.size
        with Image.open(label) as file:
            label_size, mode, raw = file.size, file.mode, np.array(file)
    except (OSError, SyntaxError) as error:
        raise TrainingError(f"{image} and {label}: one cannot be read: {error}") from None
    if mode not in ("L", "P"):
        raise TrainingError(f"{label}: got a {mode} picture, want one channel of class ids")
    if size != label_size:
        raise TrainingError(f"{label}: got {label_size[0]}x{label_size[1]} px, want {size[0]}x{size[1]} as its image")
    unknown = [int(i) for i in np.unique(raw) if table[int(i)] == _UNKNOWN]
    if unknown:
        known = [i for i in range(256) if table[i] != _UNKNOWN]
        raise TrainingError(f"{label}: got the ids {unknown}, want {known[0]} to {known[-1]}")
