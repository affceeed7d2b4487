"""Small data sets in the layouts in which they come: labels with every raw id, images of noise."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from fastpixcon.training import config
from fastpixcon.training.config import Data

SIZE = (24, 16)  # width, height; more pixels than there are ids
SPLIT = 2  # images per split

COCO_REMOVED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
COCO_IDS = [i for i in range(1, 183) if i not in COCO_REMOVED]
CITYSCAPES_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def every_id(ids: list[int]) -> np.ndarray:
    return np.resize(np.array(ids, dtype=np.uint8), SIZE[::-1])


def write_label(path: Path, raw: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mat":
        from scipy.io import savemat

        savemat(path, {"S": raw, "captions": "a label"})
    else:
        Image.fromarray(raw).save(path)


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@dataclass(frozen=True)
class Layout:
    dataset: str
    train_ids: dict[int, int]  # raw id -> train id, all there are
    unknown: int  # a raw id that the data set does not have
    train: Callable[[int], tuple[str, str]]  # number -> image, label
    val: Callable[[int], tuple[str, str]]
    lists: tuple[str, str] | None = None  # of the names in train and val

    def build(self, root: Path, count: int = SPLIT) -> "Built":
        pairs = []
        for split in (self.train, self.val):
            for i in range(count):
                image, label = (root / path for path in split(i))
                write_image(image, i)
                write_label(label, every_id(list(self.train_ids)))
                pairs.append((image, label))
        for split, path in zip((self.train, self.val), self.lists or (), strict=False):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text("".join(f"{Path(split(i)[0]).stem}\n" for i in range(count)))
        return Built(self, root, pairs)


@dataclass(frozen=True)
class Built:
    layout: Layout
    root: Path
    pairs: list[tuple[Path, Path]]  # image, label; train first

    def data(self, **changes: object) -> Data:
        return replace(config.load("camvid").data, name=self.layout.dataset, root=str(self.root), **changes)  # type: ignore[arg-type]


_CAMVID = {i: i for i in range(11)} | {11: 255}
_CONTEXT = {
    "train": lambda i: (f"JPEGImages/2008_{i}.jpg", f"SegmentationClassContext/2008_{i}.png"),
    "val": lambda i: (f"JPEGImages/2010_{i}.jpg", f"SegmentationClassContext/2010_{i}.png"),
    "lists": ("ImageSets/SegmentationContext/train.txt", "ImageSets/SegmentationContext/val.txt"),
}

LAYOUTS = {
    "camvid": Layout(
        "camvid",
        _CAMVID,
        12,
        lambda i: (f"images/train/{i}.jpg", f"labels/train/{i}.png"),
        lambda i: (f"images/val/{i}.jpg", f"labels/val/{i}.png"),
    ),
    "camvid_segnet": Layout(
        "camvid",
        _CAMVID,
        12,
        lambda i: (f"train/{i}.png", f"trainannot/{i}.png"),
        lambda i: (f"val/{i}.png", f"valannot/{i}.png"),
    ),
    "ccp": Layout(
        "ccp",
        {i: i for i in range(59)},
        59,
        lambda i: (f"images/train/{i}.jpg", f"labels/train/{i}.png"),
        lambda i: (f"images/val/{i}.jpg", f"labels/val/{i}.png"),
    ),
    "cityscapes": Layout(
        "cityscapes",
        dict.fromkeys(range(34), 255) | {raw: k for k, raw in enumerate(CITYSCAPES_IDS)},
        255,
        lambda i: (
            f"leftImg8bit/train/ulm/ulm_{i}_leftImg8bit.png",
            f"gtFine/train/ulm/ulm_{i}_gtFine_labelIds.png",
        ),
        lambda i: (
            f"leftImg8bit/val/lindau/lindau_{i}_leftImg8bit.png",
            f"gtFine/val/lindau/lindau_{i}_gtFine_labelIds.png",
        ),
    ),
    "pascal_context_59": Layout("pascal_context_59", {0: 255} | {i: i - 1 for i in range(1, 60)}, 60, **_CONTEXT),  # type: ignore[arg-type]
    "pascal_context_60": Layout("pascal_context_60", {i: i for i in range(60)}, 255, **_CONTEXT),  # type: ignore[arg-type]
    "coco_stuff_10k": Layout(
        "coco_stuff_10k",
        {0: 255} | {raw: k for k, raw in enumerate(COCO_IDS)},
        12,
        lambda i: (f"images/COCO_train2014_{i}.jpg", f"annotations/COCO_train2014_{i}.mat"),
        lambda i: (f"images/COCO_train2014_9{i}.jpg", f"annotations/COCO_train2014_9{i}.mat"),
        ("imageLists/train.txt", "imageLists/test.txt"),
    ),
    "coco_stuff_10k_converted": Layout(
        "coco_stuff_10k",
        {0: 255} | {i: i - 1 for i in range(1, 172)},
        172,
        lambda i: (f"images/train2014/{i}.jpg", f"annotations/train2014/{i}_labelTrainIds.png"),
        lambda i: (f"images/test2014/{i}.jpg", f"annotations/test2014/{i}_labelTrainIds.png"),
    ),
    "coco_stuff_164k": Layout(
        "coco_stuff_164k",
        {raw - 1: k for k, raw in enumerate(COCO_IDS)} | {255: 255},
        11,
        lambda i: (f"images/train2017/{i}.jpg", f"annotations/train2017/{i}.png"),
        lambda i: (f"images/val2017/{i}.jpg", f"annotations/val2017/{i}.png"),
    ),
}
