"""What the files of a split hold, one pair at a time: sizes, pixels of every class, and what is wrong, by kind.

A data set that is opened without its checks (``open_dataset(config, check=False)``) is read to the end, whatever is
wrong with single files: a fault is counted, and what it says is kept.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastpixcon.training import TrainingError
from fastpixcon.training.data.base import IGNORE, Split
from fastpixcon.training.data.decoding import Size, image_header, without_warnings
from fastpixcon.training.data.files import PORTION, THREADS, Files

ALONE, SIZES, UNREADABLE, UNKNOWN = "no partner", "sizes differ", "cannot be read", "unknown ids"
KINDS = (ALONE, SIZES, UNREADABLE, UNKNOWN)
_VALUES = 256


@dataclass(frozen=True)
class Facts:
    """Of one pair of image and label."""

    size: Size | None = None  # of the label
    pixels: NDArray[np.int64] | None = None  # [256] by train id; None: at fault
    kind: str = ""  # of the fault, one of KINDS; "": none
    fault: str = ""  # in words, with the file
    unknown: dict[int, int] = field(default_factory=dict)  # raw ids that nothing names -> pixels


def facts_of(split: Split, seen: Callable[[int], object] = lambda pairs: None) -> Iterator[Facts]:
    """Facts of all pairs in their order, read by several threads; ``seen`` is called with how many were read since."""
    with without_warnings(), ThreadPoolExecutor(THREADS) as pool:
        indices = range(len(split))
        portions = [indices[i : i + PORTION] for i in range(0, len(indices), PORTION)]
        for found in pool.map(lambda some: [_pair(split, index)[0] for index in some], portions):
            seen(len(found))
            yield from found


def read_pair(split: Split, index: int) -> tuple[Facts, NDArray[np.uint8] | None]:
    """Facts of a pair, and its label [H, W] of train ids, None where it is at fault.

    The label is read whole; of the image the header, and its pixels only where they may be transparent.
    """
    with without_warnings():
        return _pair(split, index)


def _pair(split: Split, index: int) -> tuple[Facts, NDArray[np.uint8] | None]:
    if not isinstance(split, Files):
        label = np.asarray(split[index][1])
        return _facts(label), label
    kind = UNREADABLE
    try:
        size = split.format.size(split.labels[index])
        kind = SIZES
        split.check_size(index)
        kind = UNREADABLE
        split.check_transparency(index)
        raw = split.format.read(split.labels[index])
        kind = UNKNOWN
        label = split.ids(raw, split.labels[index])
    except TrainingError as error:
        if kind == UNKNOWN:
            return Facts(size, kind=kind, fault=str(error), unknown=split.ids.unknown(raw)), None
        if kind == SIZES and not _both_open(split, index):
            kind = UNREADABLE
        return Facts(kind=kind, fault=str(error)), None
    assert size == label.shape[::-1]
    return _facts(label), label


@dataclass
class Survey:
    """Of a split, pair by pair: ``add`` each."""

    classes: int  # K
    alone: Sequence[str] = ()  # images and labels without the other, in words
    images: int = 0  # pairs without fault
    ignored: int = 0  # pixels that do not count
    sizes: Counter[Size] = field(default_factory=Counter)
    faults: dict[str, list[str]] = field(default_factory=dict)  # kind -> in words, each with its file

    def __post_init__(self) -> None:
        self.pixels = np.zeros(self.classes, np.int64)  # [K]
        self.occurs = np.zeros(self.classes, np.int64)  # [K] images
        if self.alone:
            self.faults[ALONE] = list(self.alone)

    @classmethod
    def of(cls, split: Split, classes: int) -> "Survey":
        """Before its pairs."""
        return cls(classes, split.alone if isinstance(split, Files) else ())

    def add(self, facts: Facts) -> None:
        if facts.pixels is None:
            self.faults.setdefault(facts.kind, []).append(facts.fault)
            return
        pixels = facts.pixels[: self.classes]
        assert facts.size is not None
        self.images += 1
        self.sizes[facts.size] += 1
        self.pixels += pixels
        self.occurs += pixels > 0
        self.ignored += int(facts.pixels[IGNORE])

    @property
    def faulty(self) -> int:
        return sum(len(texts) for texts in self.faults.values())

    def tree(self, shown: int = 20) -> dict[str, Any]:
        """Plain values; of every kind of fault the first ``shown``."""
        return {
            "images": self.images,
            "sizes": [[*size, count] for size, count in sorted(self.sizes.items())],  # width, height, images
            "pixels": self.pixels.tolist(),
            "ignored_pixels": self.ignored,
            "images_with": self.occurs.tolist(),
            "faults": {
                kind: {"count": len(texts), "first": texts[:shown]} for kind, texts in sorted(self.faults.items())
            },
        }


def _facts(label: NDArray[np.uint8]) -> Facts:
    height, width = label.shape
    return Facts((width, height), np.bincount(label.reshape(-1), minlength=_VALUES))


def _both_open(split: Files, index: int) -> bool:
    """Whether the headers of image and label can be read, so that what is wrong is their sizes."""
    try:
        image_header(split.images[index], behind_pixels=True)
    except TrainingError:
        return False
    return True
