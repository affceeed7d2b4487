"""DeepLabV3 (Chen et al. 2017) on ResNet, from torchvision."""

from torch import nn
from torchvision.models.segmentation import deeplabv3_resnet50, deeplabv3_resnet101

from fastpixcon.training.config import Model
from fastpixcon.training.models.contrast import ContrastNetwork, Take

_NETWORKS = {"deeplabv3_resnet50": deeplabv3_resnet50, "deeplabv3_resnet101": deeplabv3_resnet101}


def build(config: Model, classes: int) -> ContrastNetwork:
    """Features at stride 8: the last of the ResNet, as in Wang et al. 2021; auxiliary logits from the stage before."""
    network = _NETWORKS[config.name](weights=None, weights_backbone=None, num_classes=classes, aux_loss=True)
    return ContrastNetwork(
        network.backbone,
        Take("out"),
        network.classifier,
        channels=network.backbone.layer4[-1].conv3.out_channels,
        embedding_channels=config.embedding_channels,
        auxiliary=nn.Sequential(Take("aux"), network.aux_classifier),
    )
