"""Segmentation networks with a projection head, by name.

Each takes images [B, 3, H, W] in [0, 1], normalises them itself, and returns ``{"logits": [B, K, h, w],
"embeddings": [B, D, h, w]}`` at the resolution of its decoder; in eval mode the logits alone.
"""

from collections.abc import Callable

from fastpixcon.training import TrainingError
from fastpixcon.training.config import Model
from fastpixcon.training.models.contrast import ContrastNetwork
from fastpixcon.training.models.deeplabv3plus import deeplabv3plus_efficientnet_lite0

__all__ = ["MODELS", "ContrastNetwork", "build_model", "check_model_name"]

MODELS: dict[str, Callable[[Model, int], ContrastNetwork]] = {
    "deeplabv3plus_efficientnet_lite0": deeplabv3plus_efficientnet_lite0,
}


def check_model_name(config: Model) -> None:
    if config.name not in MODELS:
        raise TrainingError(f"model.name: got {config.name!r}, want one of {', '.join(sorted(MODELS))}")


def build_model(config: Model, classes: int) -> ContrastNetwork:
    """The network that the config names, for ``classes`` classes."""
    check_model_name(config)
    return MODELS[config.name](config, classes)
