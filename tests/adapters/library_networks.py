"""Networks of other libraries, tiny and untrained: where ContrastModel looks, and what it finds there.

docs/adapters.md has them as a table, by these names; tests/adapters/test_network_table.py runs each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch.nn.functional as F
from harness.tested_backends import REQUIRED
from torch import Tensor, nn

CLASSES = 5
MODULES = {"segmentation-models-pytorch": "segmentation_models_pytorch", "MONAI": "monai"}
EXTRAS = {"torchvision": "train", "timm": "train", "transformers": "train", "segmentation-models-pytorch": "train"}


def library(name: str) -> ModuleType:
    """Imports it; skips the test without it, or fails it where FASTPIXCON_REQUIRE names the library or its extra."""
    if {name.lower(), EXTRAS.get(name)} & set(REQUIRED):
        return __import__(MODULES.get(name, name))
    return pytest.importorskip(MODULES.get(name, name), reason=f"{name} is not installed")


@dataclass(frozen=True)
class Network:
    """A row of the table."""

    library: str
    name: str
    at: str
    gives: str  # with p, the tokens that are left out
    stride: int
    build: Callable[[ModuleType], nn.Module]
    size: tuple[int, ...] = (64, 96)
    inputs: Callable[[Tensor], dict[str, Any]] | None = None  # what it is called with; None: images alone

    def call(self, function: Callable[..., Any], images: Tensor) -> Any:
        return function(**self.inputs(images)) if self.inputs else function(images)

    def row(self) -> str:
        return f"| {self.library} | {self.name} | `{self.at}` | {self.gives} | 1/{self.stride} |"

    def __str__(self) -> str:
        return f"{self.library} {self.name}".replace("`", "")


class LinearHead(nn.Module):
    """Logits [B, K, H, W] of the patches of a backbone that gives tokens, or maps with channels last."""

    def __init__(self, backbone: nn.Module, width: int, patch: int, prefix: int = 0) -> None:
        super().__init__()
        self.backbone, self.head, self.patch, self.prefix = backbone, nn.Linear(width, CLASSES), patch, prefix

    def forward(self, images: Tensor) -> Tensor:
        forward = getattr(self.backbone, "forward_features", self.backbone)
        features = forward(images)
        scores = self.head(getattr(features, "last_hidden_state", features))
        if scores.ndim == 3:
            scores = scores[:, self.prefix :].unflatten(1, [size // self.patch for size in images.shape[-2:]])
        return F.interpolate(scores.permute(0, 3, 1, 2), images.shape[-2:], mode="bilinear")


TINY = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


def timm_vit(name: str, patch: int, prefix: int, size: tuple[int, int], **options: Any) -> Callable[..., nn.Module]:
    def build(timm: Any) -> nn.Module:
        small = {"depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 0, "img_size": size}
        return LinearHead(timm.create_model(name, pretrained=False, **small, **options), 24, patch, prefix)

    return build


def timm_swin(timm: Any) -> nn.Module:
    small = {"depths": (1, 1, 1, 1), "embed_dim": 8, "num_heads": (1, 1, 2, 2), "window_size": 2}
    backbone = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, img_size=(128, 192), **small)
    return LinearHead(backbone, 64, 32)


def dinov2(transformers: Any) -> nn.Module:
    config = transformers.Dinov2Config(**TINY, image_size=56, patch_size=14)
    return LinearHead(transformers.Dinov2Model(config), 24, 14, prefix=1)


def dinov3(transformers: Any) -> nn.Module:
    config = transformers.DINOv3ViTConfig(**TINY, intermediate_size=24, num_register_tokens=4, patch_size=16)
    return LinearHead(transformers.DINOv3ViTModel(config), 24, 16, prefix=5)


def segformer(transformers: Any) -> nn.Module:
    small = {"hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 12}
    config = transformers.SegformerConfig(depths=[1, 1, 1, 1], num_labels=CLASSES, **small)
    return transformers.SegformerForSemanticSegmentation(config)


STAGES = ["stage1", "stage2", "stage3", "stage4"]


def upernet(transformers: Any) -> nn.Module:
    backbone = transformers.ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], out_features=STAGES)
    options = {"hidden_size": 12, "num_labels": CLASSES, "auxiliary_in_channels": 16}
    return transformers.UperNetForSemanticSegmentation(transformers.UperNetConfig(backbone_config=backbone, **options))


def dpt(transformers: Any) -> nn.Module:
    sizes = {"image_size": 64, "patch_size": 16, "neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 16}
    taken = {"backbone_out_indices": [0, 1, 2, 3], "num_labels": CLASSES, "use_auxiliary_head": False}
    config = transformers.DPTConfig(**(TINY | {"num_hidden_layers": 4}), intermediate_size=24, **sizes, **taken)
    return transformers.DPTForSemanticSegmentation(config)


QUERIES = {
    "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 32, "num_queries": 6,
    "hidden_dim": 32, "encoder_feedforward_dim": 32, "num_labels": CLASSES,
}  # fmt: skip


def swin(transformers: Any) -> Any:
    small = {"depths": [1, 1, 1, 1], "embed_dim": 8, "num_heads": [1, 1, 2, 2], "window_size": 2, "image_size": 64}
    return transformers.SwinConfig(**small, out_features=STAGES)


def eomt(transformers: Any) -> nn.Module:
    options = {"num_blocks": 1, "num_queries": 6, "num_upscale_blocks": 1, "num_labels": CLASSES}
    small = TINY | {"num_hidden_layers": 2}
    config = transformers.EomtConfig(**small, image_size=64, patch_size=16, **options)
    return transformers.EomtForUniversalSegmentation(config)


def eomt_dinov3(transformers: Any) -> nn.Module:
    options = {"num_blocks": 1, "num_queries": 6, "num_upscale_blocks": 1, "num_labels": CLASSES}
    small = TINY | {"num_hidden_layers": 2, "intermediate_size": 24, "num_register_tokens": 4}
    config = transformers.EomtDinov3Config(**small, image_size=64, patch_size=16, **options)
    return transformers.EomtDinov3ForUniversalSegmentation(config)


def maskformer(transformers: Any) -> nn.Module:
    layers = {"d_model": 32, "encoder_layers": 0, "decoder_layers": 1, "decoder_ffn_dim": 32, "num_queries": 6}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "backbone_config": transformers.ResNetConfig()}
    config = transformers.MaskFormerConfig(
        backbone_config=swin(transformers), fpn_feature_size=32, mask_feature_size=32, num_labels=CLASSES,
        decoder_config=transformers.DetrConfig(**layers, **heads, use_timm_backbone=False),
    )  # fmt: skip
    return transformers.MaskFormerForInstanceSegmentation(config)


def mask2former(transformers: Any) -> nn.Module:
    config = transformers.Mask2FormerConfig(
        backbone_config=swin(transformers), feature_size=32, mask_feature_size=32, **QUERIES
    )
    return transformers.Mask2FormerForUniversalSegmentation(config)


def oneformer(transformers: Any) -> nn.Module:
    text = {"text_encoder_width": 16, "text_encoder_num_layers": 1, "text_encoder_context_length": 8}
    words = {"text_encoder_vocab_size": 50, "text_encoder_proj_layers": 1, "task_seq_len": 8, "query_dec_layers": 1}
    config = transformers.OneFormerConfig(
        backbone_config=swin(transformers), mask_dim=32, conv_dim=32, **text, **words, **QUERIES
    )
    return transformers.OneFormerForUniversalSegmentation(config)


def task(images: Tensor) -> dict[str, Any]:
    return {"pixel_values": images, "task_inputs": images.new_zeros(len(images), 8).long()}


def monai_unet(monai: Any) -> nn.Module:
    import monai.networks.nets

    return monai.networks.nets.UNet(3, 1, CLASSES, channels=(4, 8), strides=(2,), num_res_units=1)


def monai_segresnet(monai: Any) -> nn.Module:
    import monai.networks.nets

    return monai.networks.nets.SegResNet(3, 8, out_channels=CLASSES, blocks_down=(1, 1), blocks_up=(1,))


def torchvision(name: str) -> Callable[[Any], nn.Module]:
    def build(library: Any) -> nn.Module:
        make = getattr(library.models.segmentation, name)
        return make(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)

    return build


def smp(name: str, encoder: str = "tu-mobilenetv3_small_050", **options: Any) -> Callable[[Any], nn.Module]:
    return lambda library: getattr(library, name)(encoder, encoder_weights=None, classes=CLASSES, **options)


SMALL_DPT = {"dynamic_img_size": True, "decoder_intermediate_channels": [8] * 4, "decoder_fusion_channels": 16}
MASKS = "model.pixel_level_module.decoder.mask_projection"
HEAD = "segmentation_head.0"
NETWORKS = [
    Network("timm", "`vit_small_patch14_dinov2`, linear head", "head", "tokens, p = 1", 14,
            timm_vit("vit_small_patch14_dinov2", 14, 1, (56, 84)), (56, 84)),
    Network("timm", "`vit_small_patch14_reg4_dinov2`, linear head", "head", "tokens, p = 5", 14,
            timm_vit("vit_small_patch14_reg4_dinov2", 14, 5, (56, 84)), (56, 84)),
    Network("timm", "`vit_small_patch16_dinov3`, linear head", "head", "tokens, p = 5", 16,
            timm_vit("vit_small_patch16_dinov3", 16, 5, (64, 96))),
    Network("timm", "`vit_base_patch16_siglip_512.v2_webli` (SigLIP2), linear head", "head", "tokens, p = 0", 16,
            timm_vit("vit_base_patch16_siglip_512", 16, 0, (64, 96))),
    Network("timm", "the same, before its last norm", "backbone.norm", "tokens, p = 0", 16,
            timm_vit("vit_base_patch16_siglip_512", 16, 0, (64, 96))),
    Network("timm", "`swin_tiny_patch4_window7_224`, linear head", "head", "a map, channels last", 32, timm_swin,
            (128, 192)),
    Network("transformers", "`Dinov2Model`, linear head", "head", "tokens, p = 1", 14, dinov2, (56, 84)),
    Network("transformers", "`DINOv3ViTModel`, linear head", "head", "tokens, p = 5", 16, dinov3),
    Network("transformers", "SegFormer", "decode_head.classifier", "a map", 4, segformer),
    Network("transformers", "UPerNet", "decode_head.classifier", "a map", 4, upernet),
    Network("transformers", "DPT", "head.head.4", "a map", 2, dpt, (64, 64)),
    Network("transformers", "EoMT", "upscale_block", "a map", 16, eomt, (64, 64)),
    Network("transformers", "EoMT on DINOv3", "upscale_block", "a map", 16, eomt_dinov3, (64, 64)),
    Network("transformers", "MaskFormer", MASKS, "a map", 4, maskformer),
    Network("transformers", "Mask2Former", MASKS, "a map", 4, mask2former),
    Network("transformers", "OneFormer", MASKS, "a map", 4, oneformer, inputs=task),
    Network("MONAI", "UNet", "model.2", "a volume", 2, monai_unet, (16, 32, 16)),
    Network("MONAI", "SegResNet", "conv_final", "a volume", 1, monai_segresnet, (16, 32, 16)),
    Network("segmentation-models-pytorch", "Unet", HEAD, "a map", 1, smp("Unet")),
    Network("segmentation-models-pytorch", "UnetPlusPlus", HEAD, "a map", 1, smp("UnetPlusPlus")),
    Network("segmentation-models-pytorch", "MAnet", HEAD, "a map", 1, smp("MAnet")),
    Network("segmentation-models-pytorch", "Linknet", HEAD, "a map", 1, smp("Linknet")),
    Network("segmentation-models-pytorch", "FPN", HEAD, "a map", 4, smp("FPN")),
    Network("segmentation-models-pytorch", "PSPNet", HEAD, "a map", 8, smp("PSPNet")),
    Network("segmentation-models-pytorch", "DeepLabV3", HEAD, "a map", 8, smp("DeepLabV3")),
    Network("segmentation-models-pytorch", "DeepLabV3Plus", HEAD, "a map", 4, smp("DeepLabV3Plus")),
    Network("segmentation-models-pytorch", "PAN", HEAD, "a map", 4, smp("PAN"), (128, 192)),
    Network("segmentation-models-pytorch", "UPerNet", HEAD, "a map", 4, smp("UPerNet", decoder_channels=32)),
    Network("segmentation-models-pytorch", "Segformer", HEAD, "a map", 4, smp("Segformer")),
    Network("segmentation-models-pytorch", "DPT", "segmentation_head.head.0", "a map", 2,
            smp("DPT", "tu-vit_tiny_patch16_224", **SMALL_DPT)),
    Network("torchvision", "DeepLabV3", "classifier.4", "a map", 8, torchvision("deeplabv3_resnet50"), (32, 48)),
    Network("torchvision", "FCN", "classifier.4", "a map", 8, torchvision("fcn_resnet50"), (32, 48)),
]  # fmt: skip
