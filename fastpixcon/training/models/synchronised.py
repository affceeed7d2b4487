"""Batch normalisation over the images of all processes, on the CPU as well, where torch's own has none."""

import torch
import torch.distributed as dist
from timm.layers import SyncBatchNormAct, convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class _Synchronised(nn.SyncBatchNorm):
    """Sums of all processes are all-reduced, in the backward too."""

    def forward(self, x: Tensor) -> Tensor:  # [B, C, ...]
        if x.device.type != "cpu" or not self.training:
            return super().forward(x)
        along = [0, *range(2, x.dim())]
        numbers = x.numel() // x.shape[1] * dist.get_world_size()
        shape = (1, -1, *[1] * (x.dim() - 2))
        wide = x.float()
        mean = all_reduce(wide.sum(along)) / numbers  # [C]
        centred = wide - mean.view(shape)
        variance = all_reduce(centred.square().sum(along)) / numbers  # [C]
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            rate = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            with torch.no_grad():
                self.running_mean.lerp_(mean, rate)
                self.running_var.lerp_(variance * numbers / (numbers - 1), rate)
        normal = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(x.dtype)


class _SynchronisedAct(SyncBatchNormAct, _Synchronised):
    """timm's, which an activation follows."""


def synchronise_norms(model: nn.Module) -> None:
    """Replaces the batch norms of ``model`` within it, parameters and buffers kept."""
    for name, child in list(model.named_children()):
        setattr(model, name, convert_sync_batchnorm(child))
    for module in model.modules():
        if type(module) is SyncBatchNormAct:
            module.__class__ = _SynchronisedAct
        elif type(module) is nn.SyncBatchNorm:
            module.__class__ = _Synchronised
