"""What TensorBoard shows of an arm: losses, rates, scores, pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter


class Tracker:
    """Event files in the folder of an arm; a resumed arm goes on where its checkpoint was."""

    def __init__(self, folder: Path, done: int) -> None:
        self.writer = SummaryWriter(str(folder), purge_step=done or None)

    def iteration(self, step: int, values: dict[str, float | None]) -> None:
        for name, value in values.items():
            if value is not None:
                self.writer.add_scalar(name, value, step)

    def evaluation(self, step: int, found: dict[str, Any], classes: list[str], pictures: list[NDArray[Any]]) -> None:
        """found: of ``evaluation.evaluate``; pictures: [H, W, 3] uint8 each."""
        self.writer.add_scalar("val/miou", found["miou"], step)
        for name, miou in found["groups"].items():
            self.writer.add_scalar(f"val/miou {name}", miou, step)
        self.writer.add_scalar("val/accuracy", found["accuracy"], step)
        for name, iou in zip(classes, found["iou"], strict=True):
            if iou is not None:
                self.writer.add_scalar(f"val iou/{name}", iou, step)
        for i, picture in enumerate(pictures):
            self.writer.add_image(f"val/{i}", torch.from_numpy(np.ascontiguousarray(picture)), step, dataformats="HWC")
        self.writer.flush()

    def by_class(self, step: int, title: str, classes: Sequence[str], values: Sequence[float]) -> None:
        for name, value in zip(classes, values, strict=True):
            self.writer.add_scalar(f"{title}/{name}", value, step)

    def close(self) -> None:
        self.writer.close()
