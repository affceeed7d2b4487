"""The pixel contrast loss for decode heads of mmsegmentation 1.x.

Where mmsegmentation is installed, importing this module registers ``PixelContrastLoss`` with its MODELS. (The package
called mmseg on PyPI is another one, without a registry.)
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fastpixcon import losses
from fastpixcon.contrast_model import projection_head
from fastpixcon.memory import MemoryBank
from fastpixcon.mining import Mining

__all__ = ["PixelContrastHead", "PixelContrastLoss"]


class PixelContrastLoss(nn.Module):
    """:class:`fastpixcon.PixelContrastLoss`, built from plain values and called as mmsegmentation calls its losses.

    Args:
        loss_weight: factor on the loss.
        loss_name: key in the log; ``"loss_"`` in front makes it part of the sum that is trained.
        memory, mining: None, or arguments of :class:`fastpixcon.MemoryBank` and :class:`fastpixcon.Mining` as a dict.
        options: of :class:`fastpixcon.PixelContrastLoss`.
    """

    def __init__(
        self,
        loss_weight: float = 0.1,
        loss_name: str = "loss_contrast",
        memory: dict[str, Any] | None = None,
        mining: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.loss_weight, self._loss_name = loss_weight, loss_name
        if memory is not None:
            options["memory"] = MemoryBank(**memory)
        if mining is not None:
            options["mining"] = Mining(**mining)
        self.contrast = losses.PixelContrastLoss(**options)

    @property
    def loss_name(self) -> str:
        return self._loss_name

    def forward(
        self,
        pred: tuple[Tensor, Tensor],
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: int | None = None,
        reduction_override: str | None = None,
        ignore_index: int = 255,
    ) -> Tensor:
        """``pred``: embeddings [B, D, h, w] and logits [B, K, h', w'], which are brought to (h, w) by nearest;
        ``label`` [B, H, W] -> weighted mean loss in nats per anchor, [].

        Raises:
            TypeError: ``pred`` is logits alone, as ``loss_decode`` gives them: :class:`PixelContrastHead` gives both.
            ValueError: weight, avg_factor or reduction_override is given, which no mean over anchors has room for, or
                ignore_index is not that of the loss.
        """
        if not isinstance(pred, tuple | list) or len(pred) != 2:
            raise TypeError(
                f"pred: got {type(pred).__name__}, want (embeddings, logits), as PixelContrastHead gives it"
            )
        given = {"weight": weight, "avg_factor": avg_factor, "reduction_override": reduction_override}
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"{name}: got {type(value).__name__}, want None: the loss is a mean over its anchors")
        if ignore_index != self.contrast.ignore_index:
            raise ValueError(f"ignore_index: got {ignore_index}, want {self.contrast.ignore_index}, that of the loss")
        embeddings, logits = pred
        logits = F.interpolate(logits.detach(), embeddings.shape[-2:])
        loss: Tensor = self.contrast(embeddings, label, logits)
        return self.loss_weight * loss


class PixelContrastHead:
    """Before a decode head among the bases of a class: gives it a projection head and the contrast loss.

    >>> @MODELS.register_module()
    ... class ContrastFCNHead(PixelContrastHead, FCNHead): ...

    Args:
        contrast: arguments of :class:`PixelContrastLoss` as a dict.
        dim: D, width of the embeddings.
        more: what the decode head takes.

    Embeddings come from what the head gives to ``cls_seg``. Inference is that of the decode head.
    """

    _embeddings: Tensor | None

    def __init__(self, *more: Any, contrast: dict[str, Any] | None = None, dim: int = 256, **named: Any) -> None:
        super().__init__(*more, **named)
        head: Any = self
        self.projection = projection_head(head.channels, dim)
        self.contrast = PixelContrastLoss(**{"ignore_index": head.ignore_index, **(contrast or {})})
        self._embeddings = None

    def cls_seg(self, feat: Tensor) -> Tensor:
        """Features [B, C, h, w] -> logits [B, K, h, w]; in training mode their embeddings are kept for the loss."""
        head: Any = self
        self._embeddings = self.projection(feat) if head.training else None
        base: Any = super()
        logits: Tensor = base.cls_seg(feat)
        return logits

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: Any) -> dict[str, Tensor]:
        """The losses of the decode head and the contrast."""
        base: Any = super()
        head: Any = self
        found: dict[str, Tensor] = base.loss_by_feat(seg_logits, batch_data_samples)
        embeddings, self._embeddings = self._embeddings, None
        if embeddings is None:
            raise RuntimeError("cls_seg did not run in training mode before loss_by_feat: there are no embeddings")
        labels = head._stack_batch_gt(batch_data_samples).squeeze(1)
        found[self.contrast.loss_name] = self.contrast((embeddings, seg_logits), labels, ignore_index=head.ignore_index)
        return found


try:
    from mmseg.registry import MODELS
except ImportError:
    pass
else:
    MODELS.register_module(module=PixelContrastLoss, force=True)
