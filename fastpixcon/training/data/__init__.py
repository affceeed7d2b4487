"""Data sets by name.

A data set is a ``Split`` to train on and one to validate on. A split gives plain pairs of image [3, H, W] uint8 and
label [H, W] uint8, where ``IGNORE`` does not count; augmentation and batching are the same for all (``loading``).
Where the folders, sizes, pictures or ids of a data set are not what they should be, opening it raises ``TrainingError``
with the file, what came and what is wanted (``files``); ``survey`` counts what is wrong with the files of one that was
opened without its checks.
"""

from collections.abc import Callable
from dataclasses import replace

from fastpixcon.training import TrainingError
from fastpixcon.training.config import Data
from fastpixcon.training.data.base import IGNORE, DataSet, Split
from fastpixcon.training.data.camvid import CAMVID_IDS, camvid
from fastpixcon.training.data.ccp import CCP_IDS, ccp
from fastpixcon.training.data.cityscapes import CITYSCAPES_IDS, cityscapes
from fastpixcon.training.data.coco_stuff import COCO_STUFF_10K_IDS, COCO_STUFF_164K_IDS, coco_stuff_10k, coco_stuff_164k
from fastpixcon.training.data.digits import DIGITS_IDS, digits
from fastpixcon.training.data.files import Files
from fastpixcon.training.data.folder import folder, folder_ids
from fastpixcon.training.data.pascal_context import CONTEXT_59_IDS, CONTEXT_60_IDS, pascal_context_59, pascal_context_60

__all__ = ["DATASETS", "IGNORE", "DataSet", "Split", "dataset_ids", "open_dataset"]

DATASETS: dict[str, Callable[[Data], DataSet]] = {
    "camvid": camvid,
    "ccp": ccp,
    "cityscapes": cityscapes,
    "coco_stuff_10k": coco_stuff_10k,
    "coco_stuff_164k": coco_stuff_164k,
    "digits": digits,
    "folder": folder,
    "pascal_context_59": pascal_context_59,
    "pascal_context_60": pascal_context_60,
}

# Of every class, in the order of the train ids, the id that it has in the labels of the data set, as published.
_DATASET_IDS: dict[str, list[int]] = {
    "camvid": CAMVID_IDS,
    "ccp": CCP_IDS,
    "cityscapes": CITYSCAPES_IDS,
    "coco_stuff_10k": COCO_STUFF_10K_IDS,
    "coco_stuff_164k": COCO_STUFF_164K_IDS,
    "digits": DIGITS_IDS,
    "pascal_context_59": CONTEXT_59_IDS,
    "pascal_context_60": CONTEXT_60_IDS,
}


def dataset_ids(config: Data) -> list[int]:
    """[K] ids that a data set's own labels, and its server, have for the classes; of several ids of one the first."""
    if config.name == "folder":
        return folder_ids(config)
    if config.name not in _DATASET_IDS:
        raise TrainingError(f"--ids: nobody has said which ids the data set {config.name!r} has, want train")
    return _DATASET_IDS[config.name]


def open_dataset(config: Data, check: bool = True) -> DataSet:
    """The data set that the config names; ``check``: all its files, else its folders and names alone."""
    if config.name not in DATASETS:
        raise TrainingError(f"data.name: got {config.name!r}, want one of {', '.join(sorted(DATASETS))}")
    if config.folder and config.name != "folder":
        raise TrainingError(f"data.folder: got a description, but data.name is {config.name!r}, want 'folder' for it")
    data = DATASETS[config.name](config)
    if check and data.check:
        return replace(data, notes=(*data.notes, *data.check()))
    for split in (data.train, data.val, data.test) if check else ():
        if isinstance(split, Files):
            split.check()
    return data
