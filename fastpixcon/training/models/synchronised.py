"""Batch normalisation over the images of all processes, on the CPU as well, for which torch has none."""

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from fastpixcon.training import TrainingError


def synchronise_norms(model: nn.Module, device: torch.device) -> None:
    """Replaces the batch norms of ``model`` within it, parameters and buffers kept.

    Raises:
        TrainingError: one is of a kind that cannot be.
    """
    if device.type == "cuda":
        for name, child in list(model.named_children()):
            setattr(model, name, convert_sync_batchnorm(child))
        return
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if type(module) not in _KINDS:
                raise TrainingError(
                    f"model: several processes on CPUs, but {name} is a {type(module).__name__}, which every process "
                    "would have of its own; want another network, or one process"
                )
            module.__class__ = _KINDS[type(module)]


class _Synchronised(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        return _normalised(self, x) if self.training else super().forward(x)


class _SynchronisedTokens(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:  # [B, C] or [B, C, n]
        return _normalised(self, x) if self.training else super().forward(x)


class _SynchronisedAct(BatchNormAct2d):
    """timm's, with the activation that follows."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        normal: Tensor = self.act(self.drop(_normalised(self, x)))
        return normal


_KINDS = {
    nn.BatchNorm1d: _SynchronisedTokens,
    nn.BatchNorm2d: _Synchronised,
    BatchNormAct2d: _SynchronisedAct,
}


def _normalised(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Batch norm in training, [B, C, ...]: sums of all processes are all-reduced, in the backward too."""
    others = [axis for axis in range(x.dim()) if axis != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    numbers = x.numel() // x.shape[1] * dist.get_world_size()
    wide = x.float()
    mean = all_reduce(wide.sum(others)) / numbers  # [C]
    centred = wide - mean.view(shape)
    variance = all_reduce(centred.square().sum(others)) / numbers  # [C]
    if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        rate = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
        with torch.no_grad():
            norm.running_mean.lerp_(mean, rate)
            norm.running_var.lerp_(variance * (numbers / (numbers - 1)), rate)
    normal = centred * torch.rsqrt(variance + norm.eps).view(shape)
    if norm.affine:
        normal = normal * norm.weight.view(shape) + norm.bias.view(shape)
    return normal.to(x.dtype)
