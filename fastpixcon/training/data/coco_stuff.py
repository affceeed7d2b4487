"""COCO-Stuff, 171 classes, images of many sizes: 80 of things and 91 of stuff.

**10k**, 9000 images to train and 1000 to validate on (the data set calls them test), in either of two layouts:

- as published: ``images/NAME.jpg``, ``annotations/NAME.mat``, ``imageLists/{train,test}.txt``; the matrix ``S`` of a
  label holds 0 where it is unlabelled, and COCO's ids 1 to 182
- as mmsegmentation converts it: ``images/{train2014,test2014}/NAME.jpg`` and
  ``annotations/{train2014,test2014}/NAME_labelTrainIds.png``; 0 is unlabelled, 1 to 171 are the classes

**164k**, 118,287 images to train and 5000 to validate on: ``images/{train2017,val2017}/NAME.jpg`` and
``annotations/{train2017,val2017}/NAME.png``, the stuffthingmaps; 0 to 181 are COCO's ids minus one, 255 is unlabelled.
``NAME_labelTrainIds.png`` beside them are left alone.

Eleven of COCO's 182 ids are of things that nobody annotated (``_REMOVED``); they are in no label, so they are errors.
"""

import os
from pathlib import Path

import numpy as np

from fastpixcon.training import TrainingError
from fastpixcon.training.config import Data
from fastpixcon.training.data.base import IGNORE, DataSet, distinct_colours
from fastpixcon.training.data.decoding import Size
from fastpixcon.training.data.files import PICTURE, Files, Ids, LabelFormat, dataset_root, open_listed, open_pairs
from fastpixcon.training.data.matlab import MatlabError, Matrix, open_matrix
from fastpixcon.training.data.names import JPEG, PNG, Finder, names

# Ids and names of https://github.com/nightrome/cocostuff: labels.txt, labels.md (what is removed), README.md (164k);
# the layouts and the order of the classes: mmseg/datasets/coco_stuff.py of https://github.com/open-mmlab/mmsegmentation
_REMOVED = {
    12: "street sign", 26: "hat", 29: "shoe", 30: "eye glasses", 45: "plate", 66: "mirror", 68: "window", 69: "desk",
    71: "door", 83: "blender", 91: "hair brush",
}  # fmt: skip
_COCO_IDS = [i for i in range(1, 183) if i not in _REMOVED]  # [171], in the order of the train ids
_NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, "
    "skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, "
    "sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, "
    "dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, "
    "refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush, "
    "banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, "
    "ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, "
    "floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit, "
    "furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, "
    "mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform, playingfield, railing, "
    "railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, "
    "stairs, stone, straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, "
    "wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, "
    "window-blind, window-other, wood"
)
_CLASSES = _NAMES.split(", ")  # [171]
COCO_STUFF_10K_IDS = _COCO_IDS
COCO_STUFF_164K_IDS = [coco_id - 1 for coco_id in _COCO_IDS]
_CONVERTED = "_labelTrainIds.png"


def coco_stuff_10k(config: Data) -> DataSet:
    """Opens the folder ``config.root``, of either layout."""
    root = dataset_root(config, "COCO-Stuff 10k")
    is_converted = os.path.isdir(root / "annotations" / "train2014")
    split = _converted_10k if is_converted else _published_10k
    return _data_set(split(root, "train"), split(root, "test"), "what it calls test is val here")


def coco_stuff_164k(config: Data) -> DataSet:
    """Opens the folder ``config.root``."""
    root = dataset_root(config, "COCO-Stuff 164k")
    ids = Ids({coco_id - 1: k for k, coco_id in enumerate(_COCO_IDS)} | {255: IGNORE})

    def split(name: str) -> Files:
        images = names(root / "images" / name, JPEG)
        labels = names(root / "annotations" / name, PNG, left_alone=(_CONVERTED,))
        return open_pairs(f"{root}: {name}", images, labels, ids, PICTURE)

    return _data_set(split("train2017"), split("val2017"), "the labels of its test images are not public")


def _published_10k(root: Path, split: str) -> Files:
    return open_listed(
        root / "imageLists" / f"{split}.txt",
        Finder(root / "images", JPEG),
        Finder(root / "annotations", (".mat",)),
        Ids({0: IGNORE} | {coco_id: k for k, coco_id in enumerate(_COCO_IDS)}),
        _MATRIX,
    )


def _converted_10k(root: Path, split: str) -> Files:
    images = names(root / "images" / f"{split}2014", JPEG)
    labels = names(root / "annotations" / f"{split}2014", (_CONVERTED,))
    ids = Ids({0: IGNORE} | {k + 1: k for k in range(len(_CLASSES))})
    return open_pairs(f"{root}: {split}2014", images, labels, ids, PICTURE)


def _data_set(train: Files, val: Files, no_test: str) -> DataSet:
    return DataSet(train, val, _CLASSES, distinct_colours(1, len(_CLASSES)), no_test=no_test)


def _matrix(path: str) -> Matrix:
    try:
        with open(path, "rb") as file:
            return open_matrix(file.read(), "S")
    except OSError as error:
        raise _no_matrix(path, f"cannot be read: {error.strerror}") from None
    except MatlabError as error:
        raise _no_matrix(path, str(error)) from None


def _matrix_size(path: str) -> Size:
    height, width = _matrix(path).shape
    return width, height


def _read_matrix(path: str) -> np.ndarray:
    try:
        ids = _matrix(path).values()
    except MatlabError as error:
        raise _no_matrix(path, str(error)) from None
    with np.errstate(invalid="ignore"):  # NaN
        raw: np.ndarray = ids.astype(np.uint8)
    if not np.array_equal(raw, ids):
        raise _no_matrix(path, f"got {ids.dtype} {list(ids.shape)} from {ids.min()} to {ids.max()}")
    return raw


def _no_matrix(path: str, why: str) -> TrainingError:
    why = " ".join(why.split())[:200]  # a broken file may have any names
    return TrainingError(f"{path}: {why}; want a MATLAB file whose matrix S holds the ids 0 to 182")


_MATRIX = LabelFormat(_matrix_size, _read_matrix)
