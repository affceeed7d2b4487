"""Data sets by name.

A data set is a ``Split`` to train on and one to validate on. A split gives plain pairs of image [3, H, W] uint8 and
label [H, W] uint8, where ``IGNORE`` does not count; augmentation and batching are the same for all (``loading``).
"""

from collections.abc import Callable

from fastpixcon.training import TrainingError
from fastpixcon.training.config import Data
from fastpixcon.training.data.base import IGNORE, DataSet, Split
from fastpixcon.training.data.camvid import camvid
from fastpixcon.training.data.digits import digits

__all__ = ["DATASETS", "IGNORE", "DataSet", "Split", "open_dataset"]

DATASETS: dict[str, Callable[[Data], DataSet]] = {"camvid": camvid, "digits": digits}


def open_dataset(config: Data) -> DataSet:
    """The data set that the config names, checked."""
    if config.name not in DATASETS:
        raise TrainingError(f"data.name: got {config.name!r}, want one of {', '.join(sorted(DATASETS))}")
    return DATASETS[config.name](config)
