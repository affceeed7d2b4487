"""Cityscapes, finely annotated: 2975 images to train and 500 to validate, 2048 x 1024, 19 classes.

Layout, as the packages ``leftImg8bit_trainvaltest`` and ``gtFine_trainvaltest`` unpack:

- ``leftImg8bit/{train,val}/CITY/NAME_leftImg8bit.png``
- ``gtFine/{train,val}/CITY/NAME_gtFine_labelIds.png``, ids 0 to 33

Other pictures that come with an image may lie beside its labels and are not read: ``_OTHERS``.

Of the 34 ids 19 are classes, the others do not count. The license plate has the id -1, which the tools of the data set
never draw, so 255 is no id here: an error tells ``labelTrainIds`` under the name of ``labelIds``. Files
``_labelTrainIds.png`` are not read, since whoever makes them may choose the ids.
"""

import os
from pathlib import Path

from fastpixcon.training import TrainingError
from fastpixcon.training.config import Data
from fastpixcon.training.data.base import IGNORE, DataSet
from fastpixcon.training.data.files import PICTURE, Files, Ids, dataset_root, open_pairs
from fastpixcon.training.data.names import folders_in, names, pictures_in, refuse_strangers

# Raw id, name and RGB of the classes, in the order of the train ids; cityscapesscripts/helpers/labels.py of
# https://github.com/mcordts/cityscapesScripts. What is drawn: cityscapesscripts/preparation/json2labelImg.py.
_CLASSES = [
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
]
_RAW_IDS = 34
CITYSCAPES_IDS = [raw for raw, _, _ in _CLASSES]  # labelIds, which the server wants
_NO_TEST = "the labels of its test images are not public; predict --ids dataset makes what its server takes"
_IMAGE, _LABEL = "_leftImg8bit.png", "_gtFine_labelIds.png"
_OTHERS = tuple(
    f"_gtFine_{kind}.png" for kind in ("color", "instanceIds", "instanceTrainIds", "labelTrainIds", "panoptic")
)


def cityscapes(config: Data) -> DataSet:
    """Opens the folder ``config.root``, which has ``leftImg8bit`` and ``gtFine`` in it."""
    root = dataset_root(config, "Cityscapes")
    ids = Ids(dict.fromkeys(range(_RAW_IDS), IGNORE) | {raw: k for k, (raw, _, _) in enumerate(_CLASSES)})

    def split(name: str) -> Files:
        images = _by_city(root / "leftImg8bit" / name, _IMAGE)
        labels = _by_city(root / "gtFine" / name, _LABEL, _OTHERS)
        return open_pairs(f"{root}: {name}", images, labels, ids, PICTURE)

    return DataSet(
        split("train"),
        split("val"),
        [name for _, name, _ in _CLASSES],
        [colour for _, _, colour in _CLASSES],
        no_test=_NO_TEST,
    )


def _by_city(folder: Path, ending: str, left_alone: tuple[str, ...] = ()) -> dict[str, Path]:
    """``CITY/NAME`` -> file."""
    if not os.path.isdir(folder):
        raise TrainingError(f"{folder}: no such folder, want CITY/NAME{ending} in it")
    cities = folders_in(folder)
    if not cities:
        raise TrainingError(f"{folder}: has no folders of cities, want CITY/NAME{ending} in it")
    refuse_strangers(folder, pictures_in(folder), f"folders CITY with files NAME{ending}", within=False)
    return {f"{city.name}/{name}": file for city in cities for name, file in names(city, (ending,), left_alone).items()}
