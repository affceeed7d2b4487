"""What would take part in the contrast of a training, from labels alone, before it.

The crops are those of the first batches of the training: same seed, order, place, size and mirroring. Each is reduced
to the map as the loss reduces it, to the nearest pixel, and the library's own selection says which segments, the pixels
of a class in an image, give anchors. Predictions change which pixels are drawn, not how many.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from fastpixcon.functional.anchors import select_with_segments
from fastpixcon.ops.maps import Selection
from fastpixcon.training.config import Config, Contrast
from fastpixcon.training.data import IGNORE, Split
from fastpixcon.training.data.loading import EpochOrder, Key, LabelCrops
from fastpixcon.training.data.survey import Facts, read_pair
from fastpixcon.training.optimisation import Length
from fastpixcon.training.rehearsal import check_scale

_FEWEST, _MOST = 4000, 10_000  # crops: several epochs of a small data set, one of a larger
ENOUGH, HALF = 10, 2  # one segment of a class in so many may be left out
_VIEWS = 2  # of every segment, so that an anchor has a positive

Ids = NDArray[np.uint8]
Counts = NDArray[np.int64]


class Rule(NamedTuple):
    """Which segments take part."""

    max_samples: int
    max_views: int
    min_pixels: int | None  # None: max_views + 1
    pool: int

    @classmethod
    def of(cls, contrast: Contrast) -> "Rule":
        return cls(contrast.max_samples, contrast.max_views, contrast.min_pixels, contrast.pool)

    @property
    def least(self) -> int:
        """Pixels of the smallest segment that takes part."""
        return self.min_pixels or self.max_views + 1

    def changes(self, other: "Rule") -> dict[str, int]:
        """What has to be set to come from ``other`` here; a ``min_pixels`` can't be taken back."""
        pairs = zip(self._fields, self, other, strict=True)
        return {name: value for name, value, before in pairs if value != before and value is not None}


class Crop(NamedTuple):
    """Of one image in one batch."""

    key: Key
    in_crop: NDArray[np.bool_]  # [K] classes with a pixel
    maps: dict[int, Ids]  # pool -> labels [h, w]


class Pairs(Dataset[tuple[Facts, list[Crop]]]):
    """Every pair of a split: what its files hold, and its crops in the ``order`` of batches.

    Args:
        sizes: pool -> [h, w] of the map.
    """

    def __init__(
        self,
        split: Split,
        classes: int,
        config: Config | None = None,
        order: Sequence[Sequence[Key]] = (),
        sizes: Mapping[int, tuple[int, int]] | None = None,
    ) -> None:
        self.split, self.classes, self.sizes = split, classes, sizes or {}
        self.augmentation = config.data.augmentation if config else None
        self.crop = LabelCrops(config.data.augmentation, config.seed) if config else None
        self.keys: dict[int, list[Key]] = {}
        for key in itertools.chain.from_iterable(order):
            self.keys.setdefault(key[1], []).append(key)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Facts, list[Crop]]:
        facts, label = read_pair(self.split, index)
        if label is None or self.augmentation is None:
            return facts, []
        check_scale(self.augmentation, label.shape)
        return facts, [self._crop(label, key) for key in self.keys.get(index, ())]

    def _crop(self, label: Ids, key: Key) -> Crop:
        assert self.crop is not None
        crop: Ids = self.crop(torch.from_numpy(label), key).numpy()
        in_crop = np.bincount(crop.reshape(-1), minlength=self.classes)[: self.classes] > 0
        return Crop(key, in_crop, {pool: nearest(crop, *size) for pool, size in self.sizes.items()})


def nearest(label: Ids, h: int, w: int) -> Ids:
    """[H, W] -> [h, w], source index floor(i * H / h), as the selection has it."""
    H, W = label.shape
    reduced: Ids = label[(np.arange(h) * H // h)[:, None], np.arange(w) * W // w]
    return reduced


def first_batches(config: Config, images: int) -> list[list[Key]]:
    """Of a training on so many images; at most ``_MOST`` crops."""
    schedule = config.schedule
    wanted = max(1, min(max(images, _FEWEST), _MOST) // schedule.batch)

    def order() -> Iterator[list[Key]]:
        for epoch in itertools.count():
            yield from EpochOrder(images, schedule.batch, config.seed, epoch)

    return list(itertools.islice(order(), min(wanted, Length.of(schedule, images).iterations)))


@dataclass(frozen=True)
class TookPart:
    """What a rule lets take part, over all calls of the loss."""

    rule: Rule
    calls: int
    segments: Counts  # [K] that give anchors
    left_out: Counts  # [K] that give none
    anchors: Counts  # [K]

    @property
    def shares(self) -> NDArray[np.float64]:
        """[K] of the segments of a class; NaN where it has none."""
        there = self.segments + self.left_out
        return np.where(there > 0, self.segments / np.maximum(there, 1), np.nan)

    def is_enough(self, of: int = ENOUGH) -> bool:
        """Whether of every class at most one segment in ``of`` is left out."""
        return bool((self.left_out * of <= self.segments + self.left_out).all())


class Drawn:
    """The crops of a training, call by call of the loss.

    Args:
        order: of the batches; crops of files at fault are missing.
        parts: that a batch is taken in.
    """

    def __init__(self, crops: Iterable[Crop], order: Sequence[Sequence[Key]], parts: int, classes: int) -> None:
        by_key = {crop.key: crop for crop in crops}
        self.classes = classes
        self.calls: list[list[Crop]] = []
        for batch in order:
            size = -(-len(batch) // parts)
            for i in range(0, len(batch), size):
                there = [by_key[key] for key in batch[i : i + size] if key in by_key]
                self.calls += [there] if there else []
        self.in_crops = np.zeros(classes, np.int64)  # [K] segments of crops, whole
        for crop in itertools.chain.from_iterable(self.calls):
            self.in_crops += crop.in_crop
        self._sizes: dict[int, list[Counts]] = {}

    @property
    def images(self) -> int:
        return sum(map(len, self.calls))

    def sizes(self, pool: int) -> list[Counts]:
        """Pixels of every segment on the map, [b, K] of every call; 0 where there is none."""
        if pool not in self._sizes:

            def of(crop: Crop) -> Counts:
                return np.bincount(crop.maps[pool].reshape(-1), minlength=self.classes)[: self.classes]

            self._sizes[pool] = [np.stack([of(crop) for crop in call]) for call in self.calls]
        return self._sizes[pool]

    def on_map(self, pool: int) -> Counts:
        """[K] segments with a pixel there."""
        found: Counts = sum(((sizes > 0).sum(0) for sizes in self.sizes(pool)), np.zeros(self.classes, np.int64))
        return found

    def wanted(self, pool: int, of: int = ENOUGH) -> Counts:
        """[K] pixels that at most one segment in ``of`` of each class falls short of; 0 of classes without any."""
        found = np.zeros(self.classes, np.int64)
        for k in range(self.classes):
            sizes = np.sort(np.concatenate([call[:, k] for call in self.sizes(pool)] or [found[:0]]))
            sizes = sizes[sizes > 0]
            if len(sizes):
                found[k] = sizes[len(sizes) // of]
        return found

    def most(self, pool: int, least: int) -> int:
        """Segments of a call with ``least`` pixels, at most."""
        return max((int((sizes >= least).sum()) for sizes in self.sizes(pool)), default=0)

    def take_part(self, rule: Rule) -> TookPart:
        """By the selection of the loss, call by call."""
        segments, left_out, anchors = np.zeros((3, self.classes), np.int64)
        for seed, call in enumerate(self.calls):
            labels = torch.from_numpy(np.stack([crop.maps[rule.pool] for crop in call]))  # [b, h, w]
            selection = Selection(self.classes, rule.max_samples, rule.max_views, rule.min_pixels, IGNORE)
            chosen, counted = select_with_segments(labels, labels, selection, seed, "auto")
            segments += counted[0].numpy()
            left_out += counted[1].numpy()
            anchors += np.bincount(chosen.label.numpy() + 1, minlength=self.classes + 1)[1:]
        return TookPart(rule, len(self.calls), segments, left_out, anchors)


def suggestions(drawn: Drawn, contrast: Contrast) -> list[Rule]:
    """Rules that let more in than the config's own: half of the segments of every class, or nine in ten; each by
    ``min_pixels`` and, where the config has none, by ``max_views``. They are yet to be tried."""
    now = Rule.of(contrast)
    found: list[Rule] = []
    for pool in sorted({1, contrast.pool}, reverse=True):
        for of in (HALF, ENOUGH):
            sizes = drawn.wanted(pool, of)
            if not sizes.any():
                continue
            least = int(sizes[sizes > 0].min())
            samples = _samples(now.max_samples, _VIEWS * drawn.most(pool, least))
            found.append(Rule(samples, now.max_views, least, pool))
            if now.min_pixels is None and least > _VIEWS:
                found.append(Rule(samples, least - 1, None, pool))
    more = [r for r in found if r.least < now.least or r.max_samples > now.max_samples or r.pool < now.pool]
    return list(dict.fromkeys(more))


def _samples(now: int, wanted: int) -> int:
    """``now``, or the next power of two that is enough."""
    return now if now >= wanted else 1 << (wanted - 1).bit_length()
