"""A segmentation network and its projection head."""

from typing import Any

import torch
from torch import Tensor, nn

from fastpixcon.contrast_model import projection_head

_USUAL_PADDING = 32  # px
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # red, green, blue


class ContrastNetwork(nn.Module):
    """Images -> features -> logits, and beside them embeddings for the contrast.

    Args:
        encoder: normalised images [B, 3, H, W] -> whatever ``decoder`` takes.
        decoder: -> features [B, C, h, w].
        classifier: features -> logits [B, K, h, w].
        channels: C.
        embedding_channels: D.
        mean, std: of the images that ``encoder`` was pretrained on, per channel.
        auxiliary: what the encoder gives -> logits [B, K, h', w'] that training adds a loss for.
        multiple: H and W have to be multiples of it, so that the encoder's maps fit into each other.
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
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        auxiliary: nn.Module | None = None,
        multiple: int = 1,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.classifier = encoder, decoder, classifier
        self.auxiliary = auxiliary
        self.multiple = multiple
        self.projection = projection_head(channels, embedding_channels)
        # Saved with the weights, which are of no use without: published weights differ in it.
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))
        self.register_load_state_dict_pre_hook(_own_constants)

    @property
    def padding(self) -> int:
        """Images of any size are padded to multiples of it: of 32, which maps of every stride fit into, or where the
        patches of a transformer do not, of ``multiple``."""
        return _USUAL_PADDING if _USUAL_PADDING % self.multiple == 0 else self.multiple

    def encode(self, images: Tensor) -> Any:
        """Images [B, 3, H, W] in [0, 1] -> what the encoder gives."""
        H, W = images.shape[-2:]
        if H % self.multiple or W % self.multiple:
            raise ValueError(f"images: got {H} x {W} px, want multiples of {self.multiple}")
        return self.encoder((images - self.mean) / self.std)

    def features(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> features [B, C, h, w], which classifier and projection take."""
        features: Tensor = self.decoder(self.encode(images))
        return features

    def embed(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> embeddings [B, D, h, w], of any norm, in training and in eval mode."""
        embeddings: Tensor = self.projection(self.features(images))
        return embeddings

    def classify(self, encoded: Any, features: Tensor) -> dict[str, Tensor]:
        """-> "logits" [B, K, h, w], and in training mode "auxiliary" [B, K, h', w'] if there are any."""
        outputs: dict[str, Tensor] = {"logits": self.classifier(features)}
        if self.auxiliary is not None and self.training:
            outputs["auxiliary"] = self.auxiliary(encoded)
        return outputs

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        encoded = self.encode(images)
        features = self.decoder(encoded)
        outputs = self.classify(encoded, features)
        if self.training:  # the head serves training only
            outputs["embeddings"] = self.projection(features)
        return outputs

    def plain_state_dict(self) -> dict[str, Tensor]:
        """The weights without the projection head, to predict with; ``model.checkpoint`` takes them."""
        return {key: value for key, value in self.state_dict().items() if not key.startswith("projection.")}


def _own_constants(module: Any, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """State dicts without mean and std are of networks that had those of their family."""
    for name in ("mean", "std"):
        state_dict.setdefault(prefix + name, getattr(module, name))


class Take(nn.Module):
    """One of several maps by its name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        return maps[self.name]

    def extra_repr(self) -> str:
        return self.name


def conv_bn_relu(inputs: int, outputs: int, size: int = 1) -> list[nn.Module]:
    """[B, inputs, h, w] -> [B, outputs, h, w], by a convolution of ``size`` px."""
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
