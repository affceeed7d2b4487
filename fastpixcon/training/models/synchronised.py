"""Batch normalisation over the images of all processes, on the CPU as well, for which torch has none."""

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


def synchronise_norms(model: nn.Module, device: torch.device) -> None:
    """Replaces the batch norms of ``model`` within it, parameters and buffers kept."""
    if device.type == "cuda":
        for name, child in list(model.named_children()):
            setattr(model, name, convert_sync_batchnorm(child))
        return
    for module in model.modules():
        if type(module) is BatchNormAct2d:
            module.__class__ = _SynchronisedAct
        elif type(module) is nn.BatchNorm2d:
            module.__class__ = _Synchronised


class _Synchronised(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        return _normalised(self, x) if self.training else super().forward(x)


class _SynchronisedAct(BatchNormAct2d):
    """timm's, with the activation that follows."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        normal: Tensor = self.act(self.drop(_normalised(self, x)))
        return normal


def _normalised(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Batch norm in training, [B, C, H, W]: sums of all processes are all-reduced, in the backward too."""
    numbers = x.numel() // x.shape[1] * dist.get_world_size()
    wide = x.float()
    mean = all_reduce(wide.sum((0, 2, 3))) / numbers  # [C]
    centred = wide - mean.view(1, -1, 1, 1)
    variance = all_reduce(centred.square().sum((0, 2, 3))) / numbers  # [C]
    if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        rate = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
        with torch.no_grad():
            norm.running_mean.lerp_(mean, rate)
            norm.running_var.lerp_(variance * (numbers / (numbers - 1)), rate)
    normal = centred * torch.rsqrt(variance + norm.eps).view(1, -1, 1, 1)
    if norm.affine:
        normal = normal * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    return normal.to(x.dtype)
