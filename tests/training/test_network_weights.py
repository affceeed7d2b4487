"""Weights by path of timm, transformers and smp: what comes out is what comes out of the library that wrote them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from fastpixcon.training import TrainingError, config
from fastpixcon.training.models import build_model
from fastpixcon.training.models.contrast import ContrastNetwork

transformers = pytest.importorskip("transformers")

MODEL = replace(config.load("digits").model, decoder_channels=32, embedding_channels=8, pretrained=True)
SMALL = {"num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 3, "image_size": 64, "patch_size": 16}
TIMM_S = {"intermediate_size": 192, "layer_norm_eps": 1e-6}  # as timm has it; transformers' default is 1e-12


@torch.no_grad()
def shaken(model: nn.Module) -> Any:
    """No tensor is what a fresh network has, or zero."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.01, 0.2).mul_(
                torch.where(torch.rand(tensor.shape) < 0.5, -1, 1) if tensor.dim() > 1 else 1
            )
    return model.eval()


def loaded(path: Path, **changes: Any) -> ContrastNetwork:
    return build_model(replace(MODEL, checkpoint=str(path), **changes), 5).eval()


def saved(model: Any, folder: Path, how: str) -> Path:
    """As published, or with the names that the modules have."""
    if how == "save_pretrained":
        model.save_pretrained(folder)
        return folder / "model.safetensors"
    torch.save({"state_dict": model.state_dict()}, folder / "weights.pt")
    return folder / "weights.pt"


def images(side: int) -> Tensor:
    return torch.rand(2, 3, side, side)


def of_classifier() -> Any:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL, **TIMM_S, num_labels=3))


def deit() -> Any:
    return transformers.DeiTModel(transformers.DeiTConfig(**SMALL, **TIMM_S))


def dinov2(**more: Any) -> Any:
    return transformers.Dinov2Model(transformers.Dinov2Config(**{**SMALL, "patch_size": 14, "image_size": 70}, **more))


def dinov2_registers() -> Any:
    settings = {**SMALL, "patch_size": 14, "image_size": 70}
    return transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**settings))


def dinov3(**more: Any) -> Any:
    wide = {"intermediate_size": 192, "num_register_tokens": 4, **more}
    return transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**SMALL, **wide))


def siglip() -> Any:
    """Beside its model of text."""
    wide = {**SMALL, "intermediate_size": 192, "hidden_act": "gelu"}  # as timm has it
    text = {**SMALL, "intermediate_size": 48, "vocab_size": 20}
    return transformers.SiglipModel(transformers.SiglipConfig(vision_config=wide, text_config=text))


# Of transformers; timm's name of it; timm's settings for its size; tokens that are no patches; side of its images.
WIDE = {"embed_dim": 48, "num_heads": 3, "depth": 2}
VITS: dict[str, tuple[Callable[[], Any], str, dict[str, Any], int, int]] = {
    "vit": (of_classifier, "vit_tiny_patch16_224", {"img_size": 64}, 1, 64),
    "deit": (deit, "deit_tiny_distilled_patch16_224", {"img_size": 64}, 2, 64),
    "dinov2": (dinov2, "vit_small_patch14_dinov2", {"img_size": 70}, 1, 70),
    "dinov2 giant": (lambda: dinov2(use_swiglu_ffn=True), "vit_giant_patch14_dinov2", {"img_size": 70}, 1, 70),
    "dinov2 registers": (dinov2_registers, "vit_small_patch14_reg4_dinov2", {"img_size": 70}, 5, 70),
    "dinov3": (dinov3, "vit_small_patch16_dinov3_qkvb", {}, 5, 64),
    "siglip": (siglip, "vit_base_patch16_siglip_224", {"img_size": 64}, 0, 64),
}


@torch.no_grad()
@pytest.mark.parametrize("how", ["save_pretrained", "state_dict"])
@pytest.mark.parametrize("name", VITS)
def test_transformers_vits(name: str, how: str, tmp_path: Path, smaller: Callable[..., None]) -> None:
    make, timm_name, size, prefix, side = VITS[name]
    theirs = shaken(make())
    smaller(**WIDE, **size, **({"mlp_ratio": 8 / 3 * 2} if "giant" in name else {}))
    ours = loaded(saved(theirs, tmp_path, how), name=f"vit/{timm_name}").double()
    x = images(side).double()
    base = getattr(theirs, "vit", getattr(theirs, "vision_model", theirs)).double()
    tokens = base(pixel_values=(x - ours.mean) / ours.std).last_hidden_state[:, prefix:]  # [B, h*w, C]
    torch.testing.assert_close(ours.features(x).flatten(2).mT, tokens, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_rotary_networks_with_and_without_biases(tmp_path: Path, smaller: Callable[..., None]) -> None:
    """DINOv3's files have biases of zeros: timm's network without takes them, but no others."""
    smaller(**WIDE)
    theirs = shaken(dinov3())
    path = saved(theirs, tmp_path, "save_pretrained")
    with pytest.raises(
        TrainingError, match=r"2 biases such as blocks.0.attn.qkv.bias are not zero; want .*dinov3_qkvb"
    ):
        loaded(path, name="vit/vit_small_patch16_dinov3")
    for key, tensor in theirs.state_dict().items():
        if "q_proj.bias" in key or "v_proj.bias" in key:
            tensor.zero_()
    ours = loaded(saved(theirs, tmp_path, "save_pretrained"), name="vit/vit_small_patch16_dinov3").double()
    x = images(64).double()
    tokens = theirs.double()(pixel_values=(x - ours.mean) / ours.std).last_hidden_state[:, 5:]
    torch.testing.assert_close(ours.features(x).flatten(2).mT, tokens, rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("version", ["ConvNext", "ConvNextV2"])
def test_convnext_of_transformers(version: str, tmp_path: Path, smaller: Callable[..., None]) -> None:
    sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 2, 1, 1]}
    make = getattr(transformers, f"{version}ForImageClassification")
    theirs = shaken(make(getattr(transformers, f"{version}Config")(**sizes)))
    settings = {"dims": tuple(sizes["hidden_sizes"]), "depths": tuple(sizes["depths"])}
    timm_name = "convnextv2_atto" if version == "ConvNextV2" else "convnext_tiny"
    smaller(**settings)
    path = saved(theirs, tmp_path, "save_pretrained")
    ours = loaded(path, name="smp/Unet", encoder=f"tu-{timm_name}").double()
    x = images(64).double()
    body = getattr(theirs, version.lower()).double()
    maps = body(pixel_values=(x - ours.mean) / ours.std, output_hidden_states=True).hidden_states[1:]
    for got, wanted in zip(ours.encode(x)[2:], maps, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


# timm's networks with a head, ours of them.
TIMM: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "list": ("convnext_atto", {"name": "smp/Unet", "encoder": "tu-convnext_atto"}, {}),
    "dilated": ("resnet10t", {"name": "smp/DeepLabV3Plus", "encoder": "tu-resnet10t"}, {}),
    "stages that are not reached": ("resnet10t", {"name": "smp/PSPNet", "encoder": "tu-resnet10t"}, {}),
    "module": ("efficientvit_b0", {"name": "smp/UPerNet", "encoder": "tu-efficientvit_b0"}, {}),
    "windows": (
        "swin_tiny_patch4_window7_224",
        {"name": "smp/UPerNet", "encoder": "tu-swin_tiny_patch4_window7_224"},
        {"embed_dim": 24, "depths": (1, 1, 1, 1)},
    ),
    "tokens": ("vit_tiny_patch16_224", {"name": "vit/vit_tiny_patch16_224"}, {"depth": 2}),
    "pooled": ("vit_base_patch16_siglip_224", {"name": "vit/vit_base_patch16_siglip_224"}, WIDE),
    "many maps": ("vit_tiny_patch16_224", {"name": "smp/DPT", "encoder": "tu-vit_tiny_patch16_224"}, {"depth": 4}),
}


@torch.no_grad()
@pytest.mark.parametrize("case", TIMM)
def test_timm_weights(case: str, tmp_path: Path, smaller: Callable[..., None]) -> None:
    """The last map is the one that timm's whole network has there."""
    name, model, settings = TIMM[case]
    smaller(**settings)
    theirs = shaken(timm.create_model(name, pretrained=False, num_classes=3))
    smaller(**settings)
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    ours = loaded(tmp_path / "model.safetensors", **model)
    if name == "resnet10t":  # dilated, or cut short
        weights = theirs.state_dict()
        assert all(torch.equal(weights[key], value) for key, value in ours.encoder.model.state_dict().items())
        return
    x = torch.rand(1, 3, 224, 224)
    maps: Any = ours.encode(x)
    maps = maps[0] if case == "many maps" else maps
    norm = "vit/" in model["name"]
    (wanted,) = theirs.forward_intermediates((x - ours.mean) / ours.std, indices=1, norm=norm, intermediates_only=True)
    torch.testing.assert_close(maps if norm else maps[-1], wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_position_embeddings_are_resampled_as_timm_does(tmp_path: Path, smaller: Callable[..., None]) -> None:
    """Of 4 x 4 patches, for a network of 14 x 14."""
    theirs = shaken(dinov2())
    smaller(**WIDE)
    ours = loaded(saved(theirs, tmp_path, "save_pretrained"), name="vit/vit_small_patch14_dinov2")
    wanted = timm.layers.resample_abs_pos_embed(
        theirs.embeddings.position_embeddings, [37, 37], old_size=[5, 5], num_prefix_tokens=1
    )
    assert torch.equal(ours.encoder.model.pos_embed, wanted)


@torch.no_grad()
@pytest.mark.parametrize("name", ["FPN", "DPT"])
def test_networks_of_smp(name: str, tmp_path: Path, smaller: Callable[..., None]) -> None:
    """As it writes them; ours leaves out the upsampling at the end."""
    smaller(**({"depth": 4} if name == "DPT" else {}))
    encoder = "tu-vit_tiny_patch16_224" if name == "DPT" else "resnet18"
    width = {"decoder_fusion_channels": 32, "dynamic_img_size": True} if name == "DPT" else {}
    width = width or {"decoder_segmentation_channels": 32}
    make = getattr(smp, name)
    theirs = shaken(make(encoder, encoder_weights=None, classes=5, **width))
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    ours = loaded(tmp_path / "weights.pt", name=f"smp/{name}", encoder=encoder)
    x = torch.rand(1, 3, 64, 96)
    logits, up = ours(x)["logits"], 2 if name == "DPT" else 4
    wide = nn.functional.interpolate(logits, scale_factor=up, mode="bilinear", align_corners=True)
    torch.testing.assert_close(wide, theirs((x - ours.mean) / ours.std))
    again = tmp_path / "model.pt"
    torch.save(ours.plain_state_dict(), again)
    assert torch.equal(loaded(again, name=f"smp/{name}", encoder=encoder)(x)["logits"], logits)


def test_an_encoder_of_smp(tmp_path: Path) -> None:
    """By its own names, with the head that its authors gave it."""
    encoder = shaken(smp.encoders.get_encoder("resnet18", weights=None))
    torch.save({**encoder.state_dict(), "fc.weight": torch.ones(3, 512)}, tmp_path / "weights.pt")
    ours = loaded(tmp_path / "weights.pt", name="smp/Unet", encoder="resnet18")
    assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in ours.encoder.state_dict().items())


def test_what_does_not_fit_is_counted_and_named(tmp_path: Path, smaller: Callable[..., None]) -> None:
    smaller(**WIDE)
    state = timm.create_model("vit_tiny_patch16_224", num_classes=3).state_dict()
    state["norm.weight"], state["else"] = torch.ones(2), state.pop("cls_token")
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    with pytest.raises(TrainingError) as error:
        loaded(path, name="vit/vit_tiny_patch16_224")
    lines = str(error.value).splitlines()
    assert lines == [
        f"model.checkpoint {path} does not fit vit/vit_tiny_patch16_224, as timm's vit_tiny_patch16_224:",
        "  1 missing: encoder.model.cls_token",
        "  1 unexpected: else",
        "  1 of another shape: encoder.model.norm.weight: got [2], want [48]",
    ]
    torch.save({"x": torch.ones(2)}, path)
    with pytest.raises(TrainingError, match=r"missing: encoder.*and \d+ more\n  1 unexpected: encoder.x"):
        loaded(path, name="smp/Unet", encoder="resnet18")
