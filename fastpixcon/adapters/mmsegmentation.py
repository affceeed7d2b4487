"""The pixel contrast loss for decode heads of mmsegmentation 1.x.

Where mmsegmentation is installed, importing this module registers ``PixelContrastLoss`` with its MODELS. (The package
called mmseg on PyPI is another one, without a registry.)
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastpixcon import losses
from fastpixcon.contrast_model import projection_head
from fastpixcon.memory import MemoryBank
from fastpixcon.mining import Mining
from fastpixcon.ops.calls import within_backward
from fastpixcon.ops.void import void_labels
from fastpixcon.pairs import Pairs

__all__ = ["PixelContrastHead", "PixelContrastLoss"]


class PixelContrastLoss(nn.Module):
    """:class:`fastpixcon.PixelContrastLoss`, built from plain values and called as mmsegmentation calls its losses.

    Args:
        loss_weight: factor on the loss.
        loss_name: key in the log; ``"loss_"`` in front makes it part of the sum that is trained.
        memory, mining, pairs: None, or arguments of :class:`fastpixcon.MemoryBank`, :class:`fastpixcon.Mining` and
            :class:`fastpixcon.Pairs` as a dict, ``class_weights`` as lists of numbers.
        options: of :class:`fastpixcon.PixelContrastLoss`.
    """

    def __init__(
        self,
        loss_weight: float = 0.1,
        loss_name: str = "loss_contrast",
        memory: dict[str, Any] | None = None,
        mining: dict[str, Any] | None = None,
        pairs: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.loss_weight, self._loss_name = loss_weight, loss_name
        if memory is not None:
            options["memory"] = MemoryBank(**memory)
        if mining is not None:
            options["mining"] = Mining(**mining)
        if pairs is not None:
            options["pairs"] = Pairs(**{**pairs, **_class_weights(pairs)})
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
        ``label`` [B, H, W], ``weight`` [B, H, W] >= 0 of the pixels as anchors -> weighted mean loss in nats per
        anchor, [].

        Raises:
            TypeError: ``pred`` is logits alone, as ``loss_decode`` gives them: :class:`PixelContrastHead` gives both.
            ValueError: avg_factor or reduction_override is given, which no mean over anchors has room for, or
                ignore_index is not that of the loss.
        """
        if not isinstance(pred, tuple | list) or len(pred) != 2:
            raise TypeError(
                f"pred: got {type(pred).__name__}, want (embeddings, logits), as PixelContrastHead gives it"
            )
        given = {"avg_factor": avg_factor, "reduction_override": reduction_override}
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"{name}: got {type(value).__name__}, want None: the loss is a mean over its anchors")
        if ignore_index not in void_labels(self.contrast.ignore_index):
            raise ValueError(f"ignore_index: got {ignore_index}, want {self.contrast.ignore_index}, that of the loss")
        embeddings, logits = pred
        logits = F.interpolate(logits.detach(), embeddings.shape[-2:])
        loss: Tensor = self.contrast(embeddings, label, logits, weight)
        return self.loss_weight * loss


def _class_weights(pairs: dict[str, Any]) -> dict[str, Tensor]:
    """Of a config file, which has no tensors."""
    W = pairs.get("class_weights")
    return {"class_weights": torch.tensor(W, dtype=torch.float32)} if isinstance(W, list | tuple) else {}


class PixelContrastHead:
    """Before a decode head among the bases of a class: gives it a projection head and the contrast loss.

    >>> @MODELS.register_module()
    ... class ContrastFCNHead(PixelContrastHead, FCNHead): ...

    Args:
        contrast: arguments of :class:`PixelContrastLoss` as a dict.
        dim: D, width of the embeddings.
        more: what the decode head takes.

    Embeddings come from what the head gives to ``cls_seg``, the last time if it does so several times; hard anchors are
    those whose logits there are wrong. Inference is that of the decode head.
    """

    _kept: tuple[Tensor, Tensor, bool] | None

    def __init__(self, *more: Any, contrast: dict[str, Any] | None = None, dim: int = 256, **named: Any) -> None:
        super().__init__(*more, **named)
        head: Any = self
        self.projection = projection_head(head.channels, dim)
        self.contrast = PixelContrastLoss(**{"ignore_index": head.ignore_index, **(contrast or {})})
        self._kept, self._in_loss = None, False

    def cls_seg(self, feat: Tensor) -> Tensor:
        """Features [B, C, h, w] -> logits [B, K, h, w]; in training mode both are kept for the loss."""
        head: Any = self
        base: Any = super()
        logits: Tensor = base.cls_seg(feat)
        if head.training and (self._in_loss or not within_backward()):
            self._kept = feat, logits.detach(), torch.is_grad_enabled()
        return logits

    def loss(self, *more: Any, **named: Any) -> dict[str, Tensor]:
        """As the decode head's; of its features nothing is kept afterwards."""
        base: Any = super()
        self._in_loss = True
        try:
            found: dict[str, Tensor] = base.loss(*more, **named)
        finally:
            self._kept, self._in_loss = None, False
        return found

    def loss_by_feat(self, seg_logits: Any, batch_data_samples: Any) -> dict[str, Tensor]:
        """The losses of the decode head and the contrast.

        Raises:
            ValueError: the features have another width than the head's ``channels``.
            RuntimeError: ``cls_seg`` did not run in training mode; or it did without gradient in a forward with it, as
                in a reentrant checkpoint, so that the network would learn nothing from the contrast.
        """
        base: Any = super()
        head: Any = self
        kept, self._kept = self._kept, None
        if kept is None:
            raise RuntimeError(
                f"cls_seg of {type(self).__name__} did not run in training mode before loss_by_feat: there are no"
                " embeddings"
            )
        feat, logits, with_gradient = kept
        if feat.shape[1] != head.channels:
            raise ValueError(
                f"channels: got {head.channels}, want {feat.shape[1]}, the width of what {type(self).__name__} gives to"
                " cls_seg"
            )
        if torch.is_grad_enabled() and not with_gradient and not feat.requires_grad:
            raise RuntimeError(
                f"cls_seg of {type(self).__name__} ran without gradient, in a reentrant checkpoint or torch.no_grad():"
                " the contrast would not reach the network; want use_reentrant=False, or cls_seg outside of it"
            )
        found: dict[str, Tensor] = base.loss_by_feat(seg_logits, batch_data_samples)
        if self.contrast.loss_name in found:
            raise ValueError(f"loss_name: got {self.contrast.loss_name!r}, want another than {list(found)}")
        labels = head._stack_batch_gt(batch_data_samples).squeeze(1)  # [B, H, W]
        if logits.shape[1] == 1 and head.num_classes == 2:  # a score of class 1 alone, by sigmoid against a threshold
            logits = torch.cat(
                [torch.full_like(logits, math.log(head.threshold / (1 - head.threshold))), logits], dim=1
            )
        pred = self.projection(feat), logits
        found[self.contrast.loss_name] = self.contrast(pred, labels, ignore_index=head.ignore_index)
        return found


try:
    from mmseg.registry import MODELS
except ImportError:
    pass
else:
    MODELS.register_module(module=PixelContrastLoss, force=True)
