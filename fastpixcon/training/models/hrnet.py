"""HRNetV2 (Sun et al. 2019; Wang et al. 2020), its branches from timm."""

from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastpixcon.training.config import Model
from fastpixcon.training.models.contrast import ContrastNetwork, conv_bn_relu

STRIDE = 32  # of the coarsest branch


def build(config: Model, classes: int) -> ContrastNetwork:
    """Features at stride 4: all branches side by side.

    The head is the one that Wang et al. 2021 report with, a 3x3 convolution, where HRNetV2's own has 1x1.
    """
    encoder, channels = branches(config.name)
    classifier = nn.Sequential(
        *conv_bn_relu(channels, channels, 3), nn.Dropout2d(0.1), nn.Conv2d(channels, classes, 1, bias=False)
    )
    return ContrastNetwork(encoder, Concatenate(), classifier, channels, config.embedding_channels, multiple=STRIDE)


def branches(name: str) -> tuple[nn.Module, int]:
    """timm's HRNet without the head for ImageNet, and the channels of its four branches together."""
    encoder: Any = timm.create_model(
        name, pretrained=False, features_only=True, feature_location="", out_indices=(1, 2, 3, 4)
    )
    for module in encoder.modules():
        if isinstance(module, nn.Upsample):  # segmentation fuses branches so, ImageNet by nearest
            module.mode, module.align_corners = "bilinear", True
    return encoder, sum(encoder.feature_info.channels())


class Concatenate(nn.Module):
    """Maps at strides 4, 8, 16, 32 -> [B, C, h, w] at stride 4."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        size = maps[0].shape[-2:]
        coarse = [F.interpolate(x, size, mode="bilinear", align_corners=True) for x in maps[1:]]
        return torch.cat([maps[0], *coarse], 1)
