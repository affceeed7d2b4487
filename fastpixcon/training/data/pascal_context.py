"""PASCAL-Context: 4998 images to train and 5105 to validate, of many sizes, 59 classes or 60 with the background.

Layout, in the folder ``VOC2010`` or beside it:

- ``JPEGImages/NAME.jpg``
- ``SegmentationClassContext/NAME.png``, ids 0 to 59, 0 is the background
- ``ImageSets/SegmentationContext/{train,val}.txt``, names, one a line

With 59 classes the background does not count and every id is one less; with 60 it is class 0. The labels are those that
mmsegmentation's tools/dataset_converters/pascal_context.py makes from the annotations of 459 classes.
"""

import os

from fastpixcon.training.config import Data
from fastpixcon.training.data.base import IGNORE, DataSet, distinct_colours
from fastpixcon.training.data.files import PICTURE, Files, Ids, dataset_root, open_listed
from fastpixcon.training.data.names import JPEG, PNG, Finder

# In the order of the ids from 1 on: mmseg/datasets/pascal_context.py of https://github.com/open-mmlab/mmsegmentation
_NAMES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse motorbike person pottedplant sheep sofa "
    "train tvmonitor bag bed bench book building cabinet ceiling cloth computer cup door fence floor flower food grass "
    "ground keyboard light mountain mouse curtain platform sign plate road rock shelves sidewalk sky snow bedclothes "
    "track tree truck wall water window wood"
)
_CLASSES = _NAMES.split()  # [59]
CONTEXT_59_IDS = [k + 1 for k in range(len(_CLASSES))]
CONTEXT_60_IDS = list(range(len(_CLASSES) + 1))


def pascal_context_59(config: Data) -> DataSet:
    """Opens the folder ``config.root``; the background does not count."""
    ids = Ids({0: IGNORE} | {raw + 1: raw for raw in range(len(_CLASSES))})
    return _open(config, ids, _CLASSES, first_colour=1)


def pascal_context_60(config: Data) -> DataSet:
    """Opens the folder ``config.root``; the background is class 0."""
    classes = ["background", *_CLASSES]
    return _open(config, Ids({raw: raw for raw in range(len(classes))}), classes, first_colour=0)


def _open(config: Data, ids: Ids, classes: list[str], first_colour: int) -> DataSet:
    root = dataset_root(config, "PASCAL-Context")
    if os.path.isdir(root / "VOC2010"):
        root = root / "VOC2010"

    def split(name: str) -> Files:
        return open_listed(
            root / "ImageSets" / "SegmentationContext" / f"{name}.txt",
            Finder(root / "JPEGImages", JPEG),
            Finder(root / "SegmentationClassContext", PNG),
            ids,
            PICTURE,
        )

    colours = distinct_colours(first_colour, len(classes))
    return DataSet(split("train"), split("val"), classes, colours, no_test="its test images have no labels")
