"""Segmentation networks with a projection head, by name.

Beside the names of MODELS there are "smp/ARCHITECTURE", of segmentation-models-pytorch, and "vit/NAME", of timm.
Each takes images [B, 3, H, W] in [0, 1], normalises them itself, and returns ``{"logits": [B, K, h, w],
"embeddings": [B, D, h, w]}`` at the resolution of its features, DeepLabV3 and OCR also "auxiliary" logits
[B, K, h', w']; in eval mode the logits alone.
"""

import os
from collections.abc import Callable

from fastpixcon.training import TrainingError
from fastpixcon.training.config import Model
from fastpixcon.training.models import deeplabv3, hrnet, ocr, segformer, smp, vit
from fastpixcon.training.models.contrast import ContrastNetwork
from fastpixcon.training.models.deeplabv3plus import deeplabv3plus_efficientnet_lite0
from fastpixcon.training.models.published import load_checkpoint
from fastpixcon.training.near import near
from fastpixcon.training.text import as_path

__all__ = ["MODELS", "ContrastNetwork", "build_model", "check_model_name"]

_BUNDLED = "deeplabv3plus_efficientnet_lite0"  # the one whose ImageNet weights a package brings

MODELS: dict[str, Callable[[Model, int], ContrastNetwork]] = {
    _BUNDLED: deeplabv3plus_efficientnet_lite0,
    "deeplabv3_resnet50": deeplabv3.build,
    "deeplabv3_resnet101": deeplabv3.build,
    "hrnet_w18": hrnet.build,
    "hrnet_w48": hrnet.build,
    "hrnet_w48_ocr": ocr.build,
    **dict.fromkeys(segformer.VARIANTS, segformer.build),
}


# Begin of the name -> whole families: a check of the name, and what builds it.
FAMILIES: dict[str, tuple[Callable[[Model], None], Callable[[Model, int], ContrastNetwork]]] = {
    smp.PREFIX: (smp.check, smp.build),
    vit.PREFIX: (vit.check, vit.build),
}


def check_model_name(config: Model) -> None:
    """Raise ``TrainingError`` if there is no such network or its weights are not there."""
    family = _family(config.name)
    if family in FAMILIES:
        check, _ = FAMILIES[family]
        check(config)
    elif config.name not in MODELS:
        meant = near(config.name, MODELS)
        raise TrainingError(
            f"model.name: got {config.name!r}, want one of {', '.join(sorted(MODELS))}, smp/ARCHITECTURE or vit/NAME"
            + (f"; near it: {', '.join(meant)}" if meant else "")
        )
    if config.encoder and family != smp.PREFIX:
        raise TrainingError(
            f"model.encoder: got {config.encoder!r}, but {config.name} has its own; want '' or "
            "model.name=smp/ARCHITECTURE"
        )
    if config.checkpoint and not os.path.isfile(as_path(config.checkpoint)):
        raise TrainingError(f"model.checkpoint: got {config.checkpoint!r}, want a file")
    if config.pretrained and not config.checkpoint and not has_bundled_weights(config):
        name = f"{config.name} on {config.encoder}" if config.encoder else config.name
        raise TrainingError(
            f"model.pretrained: nothing is downloaded, and no package brings weights of {name}; "
            "want model.checkpoint, the path of ImageNet or published weights, or model.pretrained=false"
        )


def has_bundled_weights(config: Model) -> bool:
    """Whether a package brings ImageNet weights of the encoder."""
    return config.name == _BUNDLED or config.encoder == smp.BUNDLED


def build_model(config: Model, classes: int) -> ContrastNetwork:
    """The network that the config names, for ``classes`` classes, with the weights of its checkpoint if it has one."""
    check_model_name(config)
    family = _family(config.name)
    build = FAMILIES[family][1] if family in FAMILIES else MODELS[config.name]
    network = build(config, classes)
    if config.checkpoint:
        load_checkpoint(network, config.name, str(as_path(config.checkpoint)))
    return network


def _family(name: str) -> str:
    return name[: name.find("/") + 1]
