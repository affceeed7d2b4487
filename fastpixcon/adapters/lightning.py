"""A network with the pixel contrast loss as a LightningModule."""

from collections.abc import Callable, Iterator
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastpixcon.adapters.targets import VOID, targets
from fastpixcon.contrast_model import ContrastModel
from fastpixcon.losses import PixelContrastLoss

__all__ = ["ContrastModule"]

_LINEAR = {2: "linear", 3: "bilinear", 4: "trilinear"}  # by the dimensions of labels [B, *S]


class ContrastModule(lightning.LightningModule):
    """Trains with cross-entropy + weight * PixelContrastLoss; batches are images [B, 3, H, W] and labels [B, H, W], or
    tokens or volumes and theirs, any integer dtype; of those with the contrast's ignore_index and of negative ones
    neither loss counts. A third tensor, [B, H, W] floating >= 0, has the weights of pixels in the contrast, as
    confidences of labels that were guessed.

    >>> module = ContrastModule(ContrastModel(network, at="classifier.4"), PixelContrastLoss(max_samples=4096))
    >>> lightning.Trainer(max_epochs=10).fit(module, loader)

    Logs "cross_entropy", "contrast", "loss" and, on validation batches, "val_cross_entropy".

    Args:
        model: a :class:`fastpixcon.ContrastModel`, or a module that returns the same.
        contrast: None: PixelContrastLoss(). What it ignores, the cross-entropy ignores, too.
        weight: of the contrast.
        auxiliary_weight: of the cross-entropy of auxiliary logits, if ``model`` gives any.
        optimizer: parameters -> optimizer; None: AdamW with learning rate 1e-4.

    Raises:
        TypeError, ValueError: in a step, naming the argument; on the CPU also for a label >= K.
    """

    def __init__(
        self,
        model: ContrastModel | nn.Module,
        contrast: PixelContrastLoss | None = None,
        weight: float = 0.1,
        auxiliary_weight: float = 0.4,
        optimizer: Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.contrast = PixelContrastLoss() if contrast is None else contrast
        self.weight, self.auxiliary_weight, self.optimizer = weight, auxiliary_weight, optimizer

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = self.model(images)
        return outputs

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int = 0) -> Tensor:
        images, labels, weights = _batch(batch)
        outputs = self(images)
        if "embeddings" not in outputs:
            mode = "training" if self.model.training else "eval"
            raise ValueError(
                f"model: its output in {mode} mode has {list(outputs)}, want 'logits' and 'embeddings': a ContrastModel"
                " in training mode"
            )
        embeddings = outputs["embeddings"]
        cross_entropy = self._cross_entropy(outputs["logits"], labels)
        predictions = F.interpolate(outputs["logits"].detach(), embeddings.shape[2:])
        contrast = self.contrast(embeddings, labels, predictions, weights)
        loss: Tensor = cross_entropy + self.weight * contrast
        if "auxiliary" in outputs:
            loss = loss + self.auxiliary_weight * self._cross_entropy(outputs["auxiliary"], labels)
        self.log_dict({"cross_entropy": cross_entropy, "contrast": contrast, "loss": loss}, batch_size=len(images))
        return loss

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int = 0) -> None:
        images, labels, _ = _batch(batch)
        cross_entropy = self._cross_entropy(self(images)["logits"], labels)
        self.log("val_cross_entropy", cross_entropy, batch_size=len(images), sync_dist=True)

    def configure_optimizers(self) -> Any:
        if self.optimizer is None:
            return torch.optim.AdamW(self.parameters(), lr=1e-4)
        return self.optimizer(self.parameters())

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Per labelled pixel; 0 if there is none."""
        labels = targets(labels, logits, self.contrast.ignore_index)
        logits = F.interpolate(logits.float(), labels.shape[1:], mode=_LINEAR[labels.ndim], align_corners=False)
        total = F.cross_entropy(logits, labels, ignore_index=VOID, reduction="sum")
        return total / (labels != VOID).sum().clamp(min=1)


def _batch(batch: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        got = f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else type(batch).__name__
        raise TypeError(f"batch: got {got}, want (images [B, 3, H, W], labels [B, H, W]), or weights [B, H, W] besides")
    return batch[0], batch[1], batch[2] if len(batch) == 3 else None
