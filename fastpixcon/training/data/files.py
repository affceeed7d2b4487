"""Splits that lie in files: pairs of image and label, checked before training and while it loads.

When a split is checked, every pair, every size and every kind of picture is checked from names and headers; ids are
checked in all labels of a split of up to ``_ALL_IDS`` images and in ``_SAMPLED_IDS`` labels, evenly spread, of a larger
one. Each label is checked again as it is loaded, so that an id that the data set does not have never trains.
``survey`` goes through all files and counts what is wrong instead of raising it.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastpixcon.training import TrainingError
from fastpixcon.training.config import Data
from fastpixcon.training.data.decoding import Size, image_header, label_size, read_ids, read_image, without_warnings
from fastpixcon.training.data.names import Finder, listed
from fastpixcon.training.text import as_path

_ALL_IDS = 1000
_SAMPLED_IDS = 100
_UNKNOWN = 254  # where the table leads ids that the data set does not have; at most 171 classes come near it
THREADS = 8  # files are opened by several at a time: most of it is waiting for the disk
PORTION = 64  # files a thread takes at a time


class Ids:
    """Raw id -> train id, as a table of ``size``; ids that are not named are errors."""

    def __init__(self, train_ids: Mapping[int, int], size: int = 256) -> None:
        self.table = np.full(size, _UNKNOWN, dtype=np.uint8)
        for raw, train_id in train_ids.items():
            self.table[raw] = train_id

    def __call__(self, raw: np.ndarray, path: str) -> np.ndarray:
        """Train ids [H, W] uint8 of raw ids [H, W] uint8 that were read from ``path``."""
        label = np.take(self.table, raw)
        if (label == _UNKNOWN).any():
            raise TrainingError(f"{path}: got {self.words(list(self.unknown(raw)))}, want {self.wanted()}")
        return label

    def unknown(self, raw: np.ndarray) -> dict[int, int]:
        """Raw ids [H, W] that are not named -> pixels."""
        values, pixels = np.unique(raw[np.take(self.table, raw) == _UNKNOWN], return_counts=True)
        return dict(zip(values.tolist(), pixels.tolist(), strict=True))

    def words(self, values: list[int]) -> str:
        return f"the ids {values}"

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
    """A split whose images and labels are files.

    Args:
        alone: of every image or label without the other, which it is, in words.
        complaint: what ``check`` says of them.
    """

    def __init__(
        self,
        images: list[str],
        labels: list[str],
        ids: Ids,
        label_format: LabelFormat,
        alone: Sequence[str] = (),
        complaint: str = "",
    ) -> None:
        # Plain strings: a worker gets a copy of all of them.
        self.images, self.labels, self.ids, self.format = images, labels, ids, label_format
        self.alone, self.complaint = list(alone), complaint

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with without_warnings():
            pixels = read_image(self.images[index])  # [H, W, 3]
            label = self.label(index)
            if label.shape != pixels.shape[:2]:
                raise self._wrong_size(index, label.shape[::-1])
        # Channels stay side by side, as they are decoded: so they are resized twice as fast, to the same pixels.
        return torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(label)

    def label(self, index: int) -> np.ndarray:
        """Train ids [H, W] uint8."""
        path = self.labels[index]
        return self.ids(self.format.read(path), path)

    def check(self) -> None:
        """Raise ``TrainingError`` for the first file that is not what it should be."""
        if self.alone:
            raise TrainingError(self.complaint)
        count = len(self)
        sampled: Sequence[int] = range(count)
        if count > _ALL_IDS:
            sampled = np.linspace(0, count - 1, _SAMPLED_IDS).astype(int).tolist()
        with without_warnings(), ThreadPoolExecutor(THREADS) as pool:
            _first_error(pool, self.check_size, range(count))
            _first_error(pool, self.check_transparency, sampled)
            _first_error(pool, self.label, sampled)

    def check_size(self, index: int) -> None:
        """By the headers."""
        path, label = self.images[index], self.format.size(self.labels[index])
        if label != image_header(path).size and label != image_header(path, behind_pixels=True).size:
            raise self._wrong_size(index, label)

    def check_transparency(self, index: int) -> None:
        if image_header(self.images[index]).has_alpha:
            read_image(self.images[index])

    def _wrong_size(self, index: int, got: tuple[int, ...]) -> TrainingError:
        image = image_header(self.images[index], behind_pixels=True)
        turned = f", which has an EXIF orientation ({image.orientation}); want labels of images as they are shown"
        return TrainingError(
            f"{self.labels[index]}: got {got[0]}x{got[1]} px, want {image.size[0]}x{image.size[1]} as its image "
            f"{self.images[index]}{turned if image.orientation > 1 else ''}"
        )


def dataset_root(config: Data, what: str) -> Path:
    root = as_path(config.root)
    if not config.root or not os.path.isdir(root):
        raise TrainingError(f"data.root: got {config.root!r}, want {what}'s folder (--data DIR)")
    return root


def open_listed(source: Path, images: Finder, labels: Finder, ids: Ids, label_format: LabelFormat) -> Files:
    """The pairs of the names in the list ``source``, to be checked."""
    pairs, alone = [], []
    for name in listed(source):
        try:
            pairs.append((images.file(name, source), labels.file(name, source)))
        except TrainingError as error:
            alone.append(str(error))
    return _files(pairs, ids, label_format, alone, alone[0] if alone else "")


def open_pairs(
    what: str, images: Mapping[str, Path], labels: Mapping[str, Path], ids: Ids, label_format: LabelFormat
) -> Files:
    """The pairs of images and labels of the same name, to be checked; ``what`` is the split in words."""

    def words(name: str) -> str:
        present, other = ("image", "label") if name in images else ("label", "image")
        return f"the {present} {images.get(name) or labels.get(name)} without {other}"

    alone = [words(name) for name in sorted(images.keys() ^ labels.keys())]
    complaint = ""
    if alone:
        complaint = (
            f"{what}: has {len(images)} images and {len(labels)} labels; {len(alone)} have no partner, "
            f"the first is {alone[0]}"
        )
    both = [name for name in images if name in labels]
    return _files([(images[name], labels[name]) for name in both], ids, label_format, alone, complaint)


PICTURE = LabelFormat(label_size, read_ids)  # PNG, one channel of 8 bits, with a palette or without


def _files(
    pairs: Iterable[tuple[Path, Path]], ids: Ids, label_format: LabelFormat, alone: Sequence[str], complaint: str
) -> Files:
    both = [(str(image), str(label)) for image, label in pairs]
    return Files([i for i, _ in both], [label for _, label in both], ids, label_format, alone, complaint)


def _first_error(pool: ThreadPoolExecutor, check: Callable[[int], object], indices: Sequence[int]) -> None:
    """Run ``check`` on all; of several errors the one of the lowest index is raised."""

    def check_all(some: Sequence[int]) -> None:
        for index in some:
            check(index)

    for _ in pool.map(check_all, [indices[i : i + PORTION] for i in range(0, len(indices), PORTION)]):
        pass
