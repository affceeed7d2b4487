"""Clothing Co-Parsing: street fashion, 650 images to train and 150 to validate, 288 px wide, 58 kinds of clothes and
what is worn, and "null", the background, which counts; a test split where there is one.

Layout: ``images/{train,val,test}/NAME.jpg`` (or ``.jpeg``) and ``labels/{train,val,test}/NAME.png``, ids 0 to 58 in the
order of ``_NAMES``. The published archive has labels in MATLAB files and no splits: these are its 1,004 images with
labels of every pixel, made smaller and split at random.
"""

import os

from fastpixcon.training.config import Data
from fastpixcon.training.data.base import DataSet, distinct_colours
from fastpixcon.training.data.files import PICTURE, Files, Ids, dataset_root, open_pairs
from fastpixcon.training.data.names import JPEG, PNG, names

# In the order of the ids: label_list.mat of https://github.com/bearpaw/clothing-co-parsing
_NAMES = (
    "null accessories bag belt blazer blouse bodysuit boots bra bracelet cape cardigan clogs coat dress earrings flats "
    "glasses gloves hair hat heels hoodie intimate jacket jeans jumper leggings loafers necklace panties pants pumps "
    "purse ring romper sandals scarf shirt shoes shorts skin skirt sneakers socks stockings suit sunglasses sweater "
    "sweatshirt swimwear t-shirt tie tights top vest wallet watch wedges"
)
_CLASSES = _NAMES.split()  # [59]
CCP_IDS = list(range(len(_CLASSES)))


def ccp(config: Data) -> DataSet:
    """Opens the folder ``config.root``."""
    root = dataset_root(config, "Clothing Co-Parsing")
    ids = Ids({i: i for i in CCP_IDS})

    def split(name: str) -> Files:
        images, labels = root / "images" / name, root / "labels" / name
        return open_pairs(f"{root}: {name}", names(images, JPEG), names(labels, PNG), ids, PICTURE)

    test = split("test") if os.path.isdir(root / "images" / "test") else None
    return DataSet(split("train"), split("val"), _CLASSES, distinct_colours(0, len(_CLASSES)), test)
