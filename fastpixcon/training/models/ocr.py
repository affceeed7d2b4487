"""Object-contextual representations (Yuan et al. 2020, "Segmentation Transformer") on HRNet."""

from typing import Any

import torch
from torch import Tensor, nn

from fastpixcon.training.config import Model
from fastpixcon.training.models.contrast import ContrastNetwork, conv_bn_relu
from fastpixcon.training.models.hrnet import STRIDE, Concatenate, branches

_CHANNELS, _KEYS, _DROPOUT = 512, 256, 0.05  # of the paper; dropout of the published code


def build(config: Model, classes: int) -> ContrastNetwork:
    """Features, and so embeddings, are HRNet's at stride 4; auxiliary logits are the soft object regions."""
    encoder, channels = branches("hrnet_w48")
    regions = nn.Sequential(*conv_bn_relu(channels, channels, 3), nn.Conv2d(channels, classes, 1))
    classifier = ObjectContext(channels, classes)
    return OCRNetwork(
        encoder, Concatenate(), classifier, channels, config.embedding_channels, auxiliary=regions, multiple=STRIDE
    )


class OCRNetwork(ContrastNetwork):
    """``auxiliary``: features -> soft object regions, ``classifier``: features, regions -> logits."""

    def classify(self, encoded: Any, features: Tensor) -> dict[str, Tensor]:
        assert self.auxiliary is not None
        regions = self.auxiliary(features)
        outputs: dict[str, Tensor] = {"logits": self.classifier(features, regions)}
        if self.training:
            outputs["auxiliary"] = regions
        return outputs


class ObjectContext(nn.Module):
    """Features [B, C, h, w] and soft object regions [B, K, h, w] -> logits [B, K, h, w].

    With x_i the 512 channels of pixel i, m_ki the regions' softmax over pixels:

        f_k = sum_i m_ki x_i                                     representation of a region
        w_ik = softmax_k(pixel(x_i) . region(f_k) / sqrt(256))   relation of a pixel to a region
        y_i = up(sum_k w_ik down(f_k))                           object context of a pixel
        z_i = fuse([y_i, x_i])
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(*conv_bn_relu(channels, _CHANNELS, 3))
        self.pixel = nn.Sequential(*conv_bn_relu(_CHANNELS, _KEYS), *conv_bn_relu(_KEYS, _KEYS))
        self.region = nn.Sequential(*conv_bn_relu(_CHANNELS, _KEYS), *conv_bn_relu(_KEYS, _KEYS))
        self.down = nn.Sequential(*conv_bn_relu(_CHANNELS, _KEYS))
        self.up = nn.Sequential(*conv_bn_relu(_KEYS, _CHANNELS))
        self.fuse = nn.Sequential(*conv_bn_relu(2 * _CHANNELS, _CHANNELS), nn.Dropout2d(_DROPOUT))
        self.classifier = nn.Conv2d(_CHANNELS, classes, 1)

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        x = self.reduce(features)  # [B, 512, h, w]
        share = regions.flatten(2).softmax(2)  # [B, K, h*w]
        objects = (share @ x.flatten(2).mT).mT[..., None]  # [B, 512, K, 1]
        query = self.pixel(x).flatten(2).mT  # [B, h*w, 256]
        key = self.region(objects).flatten(2)  # [B, 256, K]
        attention = (query @ key * _KEYS**-0.5).softmax(2)  # [B, h*w, K]
        context = attention @ self.down(objects).flatten(2).mT  # [B, h*w, 256]
        context = self.up(context.mT.unflatten(2, x.shape[-2:]))  # [B, 512, h, w]
        logits: Tensor = self.classifier(self.fuse(torch.cat([context, x], 1)))
        return logits
