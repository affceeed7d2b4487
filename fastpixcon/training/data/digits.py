"""Digits scenes: scikit-learn's handwritten digits in colour over its sample photographs.

Ten classes of digits and the background. A scene is a crop of a photograph with digits pasted on it, each scaled,
rotated, inked with a colour or with another piece of photograph, more or less transparent. Scraps of digits that belong
to no class lie among them and count as background. Train and val share neither a source digit nor a region of a
photograph.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastpixcon.training import TrainingError
from fastpixcon.training.config import Data
from fastpixcon.training.data.base import DataSet

_CLASSES = ["background", *(str(digit) for digit in range(10))]
DIGITS_IDS = list(range(len(_CLASSES)))
_PALETTE = [
    (40, 40, 40), (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
    (140, 86, 75), (227, 119, 194), (188, 189, 34), (23, 190, 207), (240, 240, 240),
]  # fmt: skip
_VAL_DIGITS = 5  # every fifth source digit is for val
_VAL_STRIP = 0.4  # left part of each photograph is for val
_GRID = 3  # a scene has 3 x 3 places for digits and scraps
_SCRAPS = 1  # per scene
_INK = 0.45  # a pixel shows the digit where its stroke is darker than this


@dataclass
class _Source:
    """What the scenes of one split are cut from."""

    photographs: list[Tensor]  # [3, H, W] float in [0, 1]
    digits: Tensor  # [n, 8, 8] float in [0, 1]
    values: Tensor  # [n] 0..9


class _Scenes:
    """Scenes composed once, kept as uint8."""

    def __init__(self, source: _Source, count: int, size: int, digits: int, seed: int) -> None:
        self.images = torch.empty(count, 3, size, size, dtype=torch.uint8)
        self.labels = torch.empty(count, size, size, dtype=torch.uint8)
        for i in range(count):
            rng = np.random.default_rng((seed, i))
            self.images[i], self.labels[i] = _compose(source, size, digits, rng)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]


def digits(config: Data) -> DataSet:
    """The scenes are the same whatever the seed of the training: they are the data."""
    if config.root:
        raise TrainingError(f"data.root: got {config.root!r}, want none: the digits scenes are embedded")
    if config.scenes is None:
        raise TrainingError("data.scenes: missing, want the table [data.scenes]")
    train, val = _sources()
    size, per_scene = config.scenes.size, config.scenes.digits
    return DataSet(
        _Scenes(train, config.scenes.train, size, per_scene, seed=1),
        _Scenes(val, config.scenes.val, size, per_scene, seed=2),
        _CLASSES,
        _PALETTE,
        no_test="its scenes are to train and to validate",
    )


def _sources() -> tuple[_Source, _Source]:
    from sklearn.datasets import load_digits, load_sample_images  # a second of import, for these scenes alone

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float() / 16  # [1797, 8, 8]
    values = torch.from_numpy(bunch.target)
    photographs = [torch.from_numpy(p.copy()).permute(2, 0, 1).float() / 255 for p in load_sample_images().images]
    is_val = torch.arange(len(images)) % _VAL_DIGITS == 0
    cuts = [int(p.shape[2] * _VAL_STRIP) for p in photographs]
    train = _Source([p[:, :, c:] for p, c in zip(photographs, cuts, strict=True)], images[~is_val], values[~is_val])
    val = _Source([p[:, :, :c] for p, c in zip(photographs, cuts, strict=True)], images[is_val], values[is_val])
    return train, val


def _compose(source: _Source, size: int, digits: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    image = _piece(source, size, rng)  # [3, size, size]
    label = torch.zeros(size, size, dtype=torch.uint8)
    for k, cell in enumerate(rng.permutation(_GRID**2)[: digits + _SCRAPS]):
        is_scrap = k >= digits
        which = int(rng.integers(len(source.digits)))
        glyph = source.digits[which]
        if is_scrap:  # quarters in the wrong places: strokes that are no digit
            glyph = glyph.roll((4, 4), (0, 1))
        side = int(size / _GRID * rng.uniform(0.9, 1.3))
        stroke = _draw(glyph, side, rng)  # [side, side]
        centre = (np.array(divmod(cell, _GRID)) + rng.uniform(0.3, 0.7, 2)) * size / _GRID
        top, left = (int(v) for v in centre - side / 2)
        rows = slice(max(top, 0), min(top + side, size))
        columns = slice(max(left, 0), min(left + side, size))
        inside = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
        stroke = stroke[inside]
        under = image[:, rows, columns]  # a view
        ink = _ink(source, under.mean((1, 2)), side, rng)[:, inside[0], inside[1]]
        alpha = ((stroke - _INK) * 2.5 + 0.5).clamp(0, 1) * rng.uniform(0.6, 1.0)
        under += (ink - under) * alpha
        label[rows, columns][stroke > _INK] = 0 if is_scrap else int(source.values[which]) + 1
    noise = torch.from_numpy(rng.normal(0, rng.uniform(0, 0.05), (3, size, size)).astype(np.float32))
    return ((image + noise).clamp(0, 1) * 255).round().to(torch.uint8), label


def _piece(source: _Source, size: int, rng: np.random.Generator) -> Tensor:
    """A square crop of a photograph, resized, turned by quarters: [3, size, size]."""
    photograph = source.photographs[int(rng.integers(len(source.photographs)))]
    _, height, width = photograph.shape
    side = int(rng.integers(min(size // 2, width // 2), min(height, width)))
    y, x = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    crop = photograph[None, :, y : y + side, x : x + side]
    crop = F.interpolate(crop, (size, size), mode="bilinear", antialias=True)[0]
    return crop.rot90(int(rng.integers(4)), (1, 2)).clone()


def _draw(glyph: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """The 8x8 glyph, scaled, rotated and sheared, as stroke strength [side, side] in [0, 1]."""
    angle, shear, stretch = rng.uniform(-0.2, 0.2), rng.uniform(-0.15, 0.15), rng.uniform(0.85, 1.15)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1.05 * stretch, shear], [0, 1.05]])
    theta = torch.from_numpy(np.c_[matrix, np.zeros(2)].astype(np.float32))[None]  # [1, 2, 3]
    grid = F.affine_grid(theta, [1, 1, side, side], align_corners=False)
    return F.grid_sample(glyph[None, None], grid, mode="bicubic", align_corners=False)[0, 0].clamp(0, 1)


def _ink(source: _Source, under: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """One colour, or photograph with a tint; as a whole lighter or darker than ``under`` [3]: [3, side, side]."""
    ink = torch.from_numpy(rng.uniform(0, 1, (3, 1, 1)).astype(np.float32)).expand(3, side, side)
    if rng.random() < 0.5:
        ink = 0.5 * ink + 0.5 * _piece(source, side, rng)
    contrast = rng.uniform(0.25, 0.6) * (1 if under.mean() < rng.uniform(0.3, 0.7) else -1)
    return (ink - ink.mean() + under.mean() + contrast).clamp(0, 1)
