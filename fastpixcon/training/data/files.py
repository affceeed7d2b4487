"""Splits that lie in files: pairs of image and label, checked before training and while it loads.

When a split is opened, every pair, every size and every kind of picture is checked from names and headers; ids are
checked in all labels of a split of up to ``_ALL_IDS`` images and in ``_SAMPLED_IDS`` labels, evenly spread, of a larger
one. Each label is checked again as it is loaded, so that an id that the data set does not have never trains.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fastpixcon.training import TrainingError
from fastpixcon.training.config import Data

_ALL_IDS = 1000
_SAMPLED_IDS = 100
_UNKNOWN = 254  # where the table leads ids that the data set does not have; at most 171 classes come near it
_THREADS = 8  # files are opened by several at a time: most of it is waiting for the disk
_PORTION = 64  # files a thread takes at a time

Size = tuple[int, int]  # width, height


class Ids:
    """Raw id -> train id, as a table of 256; ids that are not named are errors."""

    def __init__(self, train_ids: Mapping[int, int]) -> None:
        self.table = np.full(256, _UNKNOWN, dtype=np.uint8)
        for raw, train_id in train_ids.items():
            self.table[raw] = train_id

    def __call__(self, raw: np.ndarray, path: str) -> np.ndarray:
        """Train ids [H, W] uint8 of raw ids [H, W] uint8 that were read from ``path``."""
        label = np.take(self.table, raw)
        if (label == _UNKNOWN).any():
            unknown = np.unique(raw[label == _UNKNOWN]).tolist()
            raise TrainingError(f"{path}: got the ids {unknown}, want {self.wanted()}")
        return label

    def wanted(self) -> str:
        """The ids in words: ``0 to 10, 12 and 255``."""
        known = [int(i) for i in np.flatnonzero(self.table != _UNKNOWN)]
        runs: list[list[int]] = []
        for i in known:
            if runs and runs[-1][-1] == i - 1:
                runs[-1].append(i)
            else:
                runs.append([i])
        words = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
        return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


@dataclass(frozen=True)
class LabelFormat:
    size: Callable[[str], Size]  # from the header; refuses files that are no label
    read: Callable[[str], np.ndarray]  # [H, W] uint8, raw ids


class Files:
    """A split whose images and labels are files."""

    def __init__(self, images: list[str], labels: list[str], ids: Ids, label_format: LabelFormat) -> None:
        # Plain strings: a worker gets a copy of all of them.
        self.images, self.labels, self.ids, self.format = images, labels, ids, label_format

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        path = self.images[index]
        try:
            with Image.open(path) as file:
                pixels = np.array(file if file.mode == "RGB" else file.convert("RGB"))  # [H, W, 3]
        except (OSError, SyntaxError) as error:
            raise _unreadable(path, error) from None
        label = self.label(index)
        if label.shape != pixels.shape[:2]:
            raise _wrong_size(self.labels[index], label.shape[::-1], pixels.shape[1::-1])
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), torch.from_numpy(label)

    def label(self, index: int) -> np.ndarray:
        """Train ids [H, W] uint8."""
        path = self.labels[index]
        return self.ids(self.format.read(path), path)

    def check(self) -> None:
        """Raise ``TrainingError`` for the first file that is not what it should be."""
        count = len(self)
        sampled: Sequence[int] = range(count)
        if count > _ALL_IDS:
            sampled = np.linspace(0, count - 1, _SAMPLED_IDS).astype(int).tolist()
        with ThreadPoolExecutor(_THREADS) as pool:
            _first_error(pool, self._check_sizes, range(count))
            _first_error(pool, self.label, sampled)

    def _check_sizes(self, index: int) -> None:
        image, label = image_size(self.images[index]), self.format.size(self.labels[index])
        if image != label:
            raise _wrong_size(self.labels[index], label, image)


def dataset_root(config: Data, what: str) -> Path:
    root = Path(config.root)
    if not config.root or not root.is_dir():
        raise TrainingError(f"data.root: got {config.root!r}, want {what}'s folder (--data DIR)")
    return root


def names(folder: Path, suffix: str, without: str | None = None) -> dict[str, Path]:
    """Name without ``suffix`` -> file, sorted; files whose name ends with ``without`` are left out."""
    if not folder.is_dir():
        raise TrainingError(f"{folder}: no such folder, want files NAME{suffix} in it")
    found = sorted(
        file
        for file in os.listdir(folder)
        if file.endswith(suffix) and not file.startswith(".") and not (without and file.endswith(without))
    )
    if not found:
        raise TrainingError(f"{folder}: has no files NAME{suffix}")
    return {file.removesuffix(suffix): folder / file for file in found}


def listed(path: Path) -> list[str]:
    """The names in a list, one a line."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror}; want a list of names, one a line") from None
    found = [line for line in lines if line]
    if not found:
        raise TrainingError(f"{path}: empty, want a list of names, one a line")
    name, times = Counter(found).most_common(1)[0]
    if times > 1:
        raise TrainingError(f"{path}: got {name} {times} times, want each name once")
    return found


def open_listed(
    source: Path, images: Callable[[str], Path], labels: Callable[[str], Path], ids: Ids, label_format: LabelFormat
) -> Files:
    """The pairs of the names in the list ``source``, checked."""
    found = listed(source)
    for name in found:
        for path in (images(name), labels(name)):
            if not path.is_file():
                raise TrainingError(f"{path}: no such file, but {source} names {name}")
    return _checked([(images(name), labels(name)) for name in found], ids, label_format)


def open_pairs(
    what: str, images: Mapping[str, Path], labels: Mapping[str, Path], ids: Ids, label_format: LabelFormat
) -> Files:
    """The pairs of images and labels of the same name, checked; ``what`` is the split in words."""
    alone = sorted(images.keys() ^ labels.keys())
    if alone:
        present, other = ("image", "label") if alone[0] in images else ("label", "image")
        first = images.get(alone[0]) or labels.get(alone[0])
        raise TrainingError(
            f"{what}: has {len(images)} images and {len(labels)} labels; {len(alone)} have no partner, "
            f"the first is the {present} {first} without {other}"
        )
    return _checked([(images[name], labels[name]) for name in images], ids, label_format)


def image_size(path: str) -> Size:
    return _header(path)[0]


def _picture_size(path: str) -> Size:
    size, mode = _header(path)
    _check_mode(path, mode)
    return size


def _check_mode(path: str, mode: str) -> None:
    if mode not in ("L", "P"):
        raise TrainingError(f"{path}: got a {mode} picture, want one channel of class ids of 8 bits")


def _read_picture(path: str) -> np.ndarray:
    try:
        with Image.open(path) as file:
            _check_mode(path, file.mode)
            return np.array(file)
    except (OSError, SyntaxError) as error:
        raise _unreadable(path, error) from None


PICTURE = LabelFormat(_picture_size, _read_picture)  # PNG, one channel of 8 bits, with a palette or without


def _header(path: str) -> tuple[Size, str]:
    try:
        with Image.open(path) as file:
            return file.size, file.mode
    except (OSError, SyntaxError) as error:
        raise _unreadable(path, error) from None


def _checked(pairs: Iterable[tuple[Path, Path]], ids: Ids, label_format: LabelFormat) -> Files:
    images, labels = zip(*pairs, strict=True)
    files = Files([str(path) for path in images], [str(path) for path in labels], ids, label_format)
    files.check()
    return files


def _first_error(pool: ThreadPoolExecutor, check: Callable[[int], object], indices: Sequence[int]) -> None:
    """Run ``check`` on all; of several errors the one of the lowest index is raised."""

    def check_all(some: Sequence[int]) -> None:
        for index in some:
            check(index)

    for _ in pool.map(check_all, [indices[i : i + _PORTION] for i in range(0, len(indices), _PORTION)]):
        pass


def _unreadable(path: str, error: Exception) -> TrainingError:
    why = "no picture" if isinstance(error, UnidentifiedImageError) else str(error)
    return TrainingError(f"{path}: cannot be read: {why}")


def _wrong_size(path: str, got: tuple[int, ...], want: tuple[int, ...]) -> TrainingError:
    return TrainingError(f"{path}: got {got[0]}x{got[1]} px, want {want[0]}x{want[1]} as its image")
