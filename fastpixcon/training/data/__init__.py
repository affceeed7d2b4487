"""Data sets by name.

A data set is a ``Split`` to train on and one to validate on. A split gives plain pairs of image [3, H, W] uint8 and
label [H, W] uint8, where ``IGNORE`` does not count; augmentation and batching are the same for all (``loading``).
Where the folders, sizes, pictures or ids of a data set are not what they should be, opening it raises ``TrainingError``
with the file, what came and what is wanted (``files``).
"""

from collections.abc import Callable

from fastpixcon.training import TrainingError
from fastpixcon.training.config import Data
from fastpixcon.training.data.base import IGNORE, DataSet, Split
from fastpixcon.training.data.camvid import camvid
from fastpixcon.training.data.cityscapes import cityscapes
from fastpixcon.training.data.coco_stuff import coco_stuff_10k, coco_stuff_164k
from fastpixcon.training.data.digits import digits
from fastpixcon.training.data.pascal_context import pascal_context_59, pascal_context_60

__all__ = ["DATASETS", "IGNORE", "DataSet", "Split", "open_dataset"]

DATASETS: dict[str, Callable[[Data], DataSet]] = {
    "camvid": camvid,
    "cityscapes": cityscapes,
    "coco_stuff_10k": coco_stuff_10k,
    "coco_stuff_164k": coco_stuff_164k,
    "digits": digits,
    "pascal_context_59": pascal_context_59,
    "pascal_context_60": pascal_context_60,
}


def open_dataset(config: Data) -> DataSet:
    """The data set that the config names, checked."""
    if config.name not in DATASETS:
        raise TrainingError(f"data.name: got {config.name!r}, want one of {', '.join(sorted(DATASETS))}")
    return DATASETS[config.name](config)
