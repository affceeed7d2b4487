"""A trained network in a figure."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastpixcon.training.engine import Arm
from fastpixcon.training.models import ContrastNetwork


@dataclass(frozen=True)
class Shown:
    """``contrasts``: its projection head was trained, so its embeddings are shown; else its decoder's features."""

    name: str
    model: ContrastNetwork
    contrasts: bool
    miou: float | None = None

    @staticmethod
    def of(arm: Arm) -> "Shown":
        last = arm.history.evaluations[-1] if arm.history.evaluations else {}
        return Shown(arm.name, arm.evaluated_model, arm.contrast is not None, last.get("miou"))

    @property
    def title(self) -> str:
        return self.name if self.miou is None else f"{self.name}: mIoU {100 * self.miou:.1f} %"

    def padded(self, image: Tensor) -> Tensor:
        """[3, H, W] uint8 -> [1, 3, H', W'] in [0, 1], a size that the network takes; what is added is grey."""
        height, width = image.shape[-2:]
        multiple = self.model.padding
        return F.pad(image.float() / 255, (0, -width % multiple, 0, -height % multiple), value=0.5)[None]

    @torch.no_grad()
    def rows(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> unit rows at every place, [B, D, h, w]."""
        self.model.eval()
        rows = self.model.embed(images) if self.contrasts else self.model.features(images)
        return F.normalize(rows.float(), dim=1)


def spread(count: int, length: int) -> list[int]:
    """``count`` indices of ``length``, from the first to the last."""
    return torch.linspace(0, length - 1, min(count, length)).round().long().tolist()
