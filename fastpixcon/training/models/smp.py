"""Architectures of segmentation-models-pytorch on its own encoders and on those of timm."""

import re
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.encoders.timm_universal import TimmUniversalEncoder
from segmentation_models_pytorch.encoders.timm_vit import TimmViTEncoder
from torch import Tensor, nn

from fastpixcon.training import TrainingError
from fastpixcon.training.config import Model
from fastpixcon.training.models import timm_names, vit
from fastpixcon.training.models.contrast import ContrastNetwork
from fastpixcon.training.models.deeplabv3plus import load_imagenet_weights
from fastpixcon.training.near import or_near

PREFIX = "smp/"
TIMM = "tu-"  # begins the names of timm's encoders
ARCHITECTURES: dict[str, Any] = {found.__name__: found for found in smp.MODEL_ARCHITECTURES_MAPPING.values()}
BUNDLED = "tu-tf_efficientnet_lite0"  # the encoder whose ImageNet weights a package brings

# What each calls the width of what its classifier takes, where that is one number, and its dropout.
_WIDTH = {
    "FPN": "decoder_segmentation_channels",
    "PSPNet": "psp_out_channels",
    "DeepLabV3": "decoder_channels",
    "DeepLabV3Plus": "decoder_channels",
    "PAN": "decoder_channels",
    "UPerNet": "decoder_channels",
    "Segformer": "decoder_segmentation_channels",
    "DPT": "decoder_fusion_channels",
}
_DROPOUT = {
    "FPN": "decoder_dropout",
    "PSPNet": "psp_dropout",
    "DeepLabV3": "decoder_aspp_dropout",
    "DeepLabV3Plus": "decoder_aspp_dropout",
}
_CANNOT = (TypeError, ValueError, NotImplementedError, KeyError, AssertionError)  # what smp and timm say no with
_GROUPS = 32  # of FPN's group norm


def check(config: Model) -> None:
    """Raise ``TrainingError`` if there is no such architecture or encoder."""
    architecture, encoder = config.name.removeprefix(PREFIX), config.encoder
    if architecture not in ARCHITECTURES:
        near = or_near(architecture, ARCHITECTURES, f"one of {', '.join(ARCHITECTURES)}")
        raise TrainingError(f"model.name: got {config.name!r}, want {PREFIX} and an architecture of smp, {near}")
    if not encoder:
        raise TrainingError(
            f"model.encoder: missing, {config.name} wants one of smp's own or {TIMM} and a name of timm, "
            "as 'resnet50' or 'tu-convnext_tiny'"
        )
    if architecture == "FPN" and config.decoder_channels % _GROUPS:
        raise TrainingError(
            f"model.decoder_channels: got {config.decoder_channels}, {config.name} wants a multiple of {_GROUPS}"
        )
    transformers = architecture == "DPT"  # takes nothing else
    own = [] if transformers else smp.encoders.get_encoder_names()
    what = f"{TIMM} and {'a plain vision transformer' if transformers else 'a network'} of timm"
    if encoder not in own:
        known = [TIMM + name for name in (vit.known() if transformers else timm.list_models())]
        what = f"one of smp's own or {what}" if own else what
        timm_names.check_name("model.encoder", encoder, [*own, *known], what, TIMM)


def build(config: Model, classes: int) -> ContrastNetwork:
    """Features are what the architecture's decoder gives, logits its head without the upsampling that follows."""
    name = config.name.removeprefix(PREFIX)
    network = _network(name, config, classes)
    encoder, decoder, head = network.encoder, network.decoder, network.segmentation_head
    if name == "DPT":
        patch = encoder.output_stride
        if patch & (patch - 1):  # its maps of strides 4 to 32 would not fit into each other
            raise TrainingError(
                f"model.encoder: got {config.encoder!r}, whose patches are {patch} px, {config.name} wants 8, 16 or 32"
            )
        encoder.model.prune_intermediate_layers(encoder._output_indices, prune_norm=True, prune_head=True)
        decoder, classifier = OfTokens(decoder), head.head
    else:
        classifier = head[0]
    if config.pretrained and not config.checkpoint:
        load_imagenet_weights(encoder)
    multiple = encoder.output_stride if network.requires_divisible_input_shape else 1
    if name == "DPT":
        multiple = max(multiple, 32)
    known = timm_names.constants(encoder.name) if isinstance(encoder, TimmUniversalEncoder | TimmViTEncoder) else {}
    return ContrastNetwork(
        encoder,
        decoder,
        classifier,
        (classifier[0] if name == "DPT" else classifier).in_channels,
        config.embedding_channels,
        **known,
        multiple=multiple,
    )


def _network(name: str, config: Model, classes: int) -> Any:
    settings: dict[str, Any] = {"encoder_weights": None, "classes": classes}
    if name in _WIDTH:
        settings[_WIDTH[name]] = config.decoder_channels
    if name in _DROPOUT:
        settings[_DROPOUT[name]] = config.dropout
    problem: Exception | None = None
    for more in _any_size(name, config.encoder):
        try:
            return ARCHITECTURES[name](config.encoder, **settings, **more)
        except _CANNOT as error:
            problem = problem or error
    raise TrainingError(
        f"model.encoder: got {config.encoder!r}, which {config.name} cannot be built on: {problem}; "
        f"want another, or for this one model.name={' or '.join(_built_on(config.encoder)) or 'of another family'}"
    ) from problem


def _built_on(encoder: str) -> list[str]:
    """The architectures that can be."""
    found = []
    for name, architecture in ARCHITECTURES.items():
        if name == "DPT" and encoder.partition(".")[0] not in [TIMM + transformer for transformer in vit.known()]:
            continue
        try:
            with torch.device("meta"):
                architecture(encoder, encoder_weights=None, **_any_size(name, encoder)[-1])
        except _CANNOT:
            continue
        except RuntimeError as error:  # meta tensors have no numbers, which some read of them
            if "meta" not in str(error):
                continue
        found.append(PREFIX + name)
    return found


def _any_size(name: str, encoder: str) -> list[dict[str, Any]]:
    """Settings with which an encoder takes images of any size, the first that it knows."""
    if name == "DPT":
        return [vit.SETTINGS]
    found = timm.get_pretrained_cfg(encoder.removeprefix(TIMM)) if encoder.startswith(TIMM) else None
    return [{"strict_img_size": False}, {}] if found is not None and found.fixed_input_size else [{}]


class OfTokens(nn.Module):
    """DPT's decoder, which takes two lists: the encoder's maps and its class and register tokens."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, encoded: tuple[Any, Any]) -> Tensor:
        features: Tensor = self.decoder(*encoded)
        return features


def published_names(state: dict[str, Tensor], network: ContrastNetwork) -> dict[str, Tensor]:
    """State dict of a network of smp, as it and its save_pretrained write it -> by our names."""
    of_tokens = isinstance(network.decoder, OfTokens)
    ours = network.state_dict()
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        if part == "segmentation_head":  # DPT's is several layers, others' one
            key = f"classifier.{rest.partition('.')[2]}"
        elif part == "decoder" and of_tokens:
            key = f"decoder.{key}"
        elif of_tokens and key not in ours and re.match(r"encoder\.model\.(norm|fc_norm|head|attn_pool)\.", key):
            continue  # behind the blocks whose tokens it takes
        renamed[key] = value
    return renamed
