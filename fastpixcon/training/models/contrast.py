"""A segmentation network and its projection head."""

import torch
from torch import Tensor, nn


class ContrastNetwork(nn.Module):
    """Images -> decoder features -> logits, and beside them embeddings for the contrast.

    Args:
        encoder: normalised images [B, 3, H, W] -> whatever ``decoder`` takes.
        decoder: -> features [B, C, h, w].
        classifier: features -> logits [B, K, h, w].
        channels: C.
        embedding_channels: D.
        mean, std: of the images that ``encoder`` was pretrained on, per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        classifier: nn.Module,
        channels: int,
        embedding_channels: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.classifier = encoder, decoder, classifier
        self.projection = projection_head(channels, embedding_channels)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> decoder features [B, C, h, w]."""
        features: Tensor = self.decoder(self.encoder((images - self.mean) / self.std))
        return features

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.features(images)
        outputs: dict[str, Tensor] = {"logits": self.classifier(features)}
        if self.training:  # the head serves training only
            outputs["embeddings"] = self.projection(features)
        return outputs

    def plain_state_dict(self) -> dict[str, Tensor]:
        """The weights without the projection head, to predict with."""
        return {key: value for key, value in self.state_dict().items() if not key.startswith("projection.")}


def projection_head(channels: int, embedding_channels: int) -> nn.Sequential:
    """[B, C, h, w] -> [B, D, h, w]; the loss normalises the pixels it selects."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, embedding_channels, 1),
    )
