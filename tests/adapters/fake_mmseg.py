"""Stand-ins for what mmsegmentation 1.x has of a registry and a decode head, by their interface."""

from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Registry:
    def __init__(self) -> None:
        self.modules: dict[str, type] = {}

    def register_module(self, name: str | None = None, force: bool = False, module: type | None = None) -> Any:
        def register(cls: type) -> type:
            if (name or cls.__name__) in self.modules and not force:
                raise KeyError(f"{name or cls.__name__} is already registered")
            self.modules[name or cls.__name__] = cls
            return cls

        return register if module is None else register(module)

    def build(self, cfg: dict[str, Any]) -> Any:
        options = dict(cfg)
        return self.modules[options.pop("type")](**options)


class FCNHead(nn.Module):
    """A decode head: features -> cls_seg -> loss_by_feat."""

    def __init__(self, channels: int, num_classes: int, *, ignore_index: int = 255) -> None:
        super().__init__()
        self.channels, self.ignore_index = channels, ignore_index
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def cls_seg(self, feat: Tensor) -> Tensor:
        return self.conv_seg(feat)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.cls_seg(inputs.relu())

    def _stack_batch_gt(self, batch_data_samples: list[Any]) -> Tensor:
        return torch.stack([sample.gt_sem_seg.data for sample in batch_data_samples])  # [B, 1, H, W]

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: list[Any]) -> dict[str, Tensor]:
        labels = self._stack_batch_gt(batch_data_samples).squeeze(1)
        logits = F.interpolate(seg_logits, labels.shape[-2:], mode="bilinear")
        return {"loss_ce": F.cross_entropy(logits, labels, ignore_index=self.ignore_index)}

    def loss(self, inputs: Tensor, batch_data_samples: list[Any]) -> dict[str, Tensor]:
        return self.loss_by_feat(self(inputs), batch_data_samples)


def fake_mmseg() -> dict[str, ModuleType]:
    """Modules by their names, to put into sys.modules."""
    names = ("mmseg", "mmseg.registry", "mmseg.models", "mmseg.models.decode_heads")
    modules = {name: ModuleType(name) for name in names}
    modules["mmseg.registry"].MODELS = Registry()  # type: ignore[attr-defined]
    modules["mmseg.models.decode_heads"].FCNHead = FCNHead  # type: ignore[attr-defined]
    return modules
