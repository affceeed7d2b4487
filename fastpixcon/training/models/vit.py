"""Plain vision transformers from timm, with a linear head: those of Dosovitskiy et al. 2021, DINOv2, DINOv3, SigLIP."""

from typing import Any

import timm
from torch import Tensor, nn

from fastpixcon.training.config import Model
from fastpixcon.training.models import timm_names
from fastpixcon.training.models.contrast import ContrastNetwork

PREFIX = "vit/"
SETTINGS = {"dynamic_img_size": True}  # position embeddings are resampled to the patches of an image
# Modules of timm: every network in them has one grid of tokens throughout, and takes these settings.
_MODULES = ("vision_transformer", "eva", "deit")


def known() -> list[str]:
    return [name for module in _MODULES for name in timm.list_models(module=module)]


def check(config: Model) -> None:
    """Raise ``TrainingError`` if timm has no such transformer."""
    what = f"{PREFIX} and a plain vision transformer of timm"
    timm_names.check_name("model.name", config.name, [PREFIX + name for name in known()], what, PREFIX)


def transformer(name: str) -> Any:
    """Without weights and without a head."""
    network = timm_names.create(name, **SETTINGS)
    network.prune_intermediate_layers([len(network.blocks) - 1], prune_norm=False, prune_head=True)
    return network


def build(config: Model, classes: int) -> ContrastNetwork:
    """Features at the stride of the patches: their tokens after the last block and the norm that follows it."""
    name = config.name.removeprefix(PREFIX)
    tokens = Tokens(transformer(name), name)
    channels = tokens.model.num_features
    return ContrastNetwork(
        tokens,
        nn.Identity(),
        nn.Conv2d(channels, classes, 1),
        channels,
        config.embedding_channels,
        **timm_names.constants(name),
        multiple=tokens.patch,
    )


class Tokens(nn.Module):
    """Images [B, 3, H, W] -> the tokens of their patches as a map [B, C, h, w]; class and register tokens are left out.

    Args:
        model: a transformer of timm.
        name: of it.
    """

    def __init__(self, model: Any, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name
        self.patch, width = model.patch_embed.patch_size  # px
        assert self.patch == width, (name, self.patch, width)

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.model.forward_features(images)  # [B, p + h*w, C]
        size = (images.shape[-2] // self.patch, images.shape[-1] // self.patch)
        return tokens[:, self.model.num_prefix_tokens :].mT.unflatten(2, size)
