"""Published weights, as state dicts generated with the names that their authors gave them."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from fastpixcon.training import TrainingError, config
from fastpixcon.training.models import build_model, hrnet, ocr
from fastpixcon.training.models.contrast import IMAGENET_MEAN, IMAGENET_STD, ContrastNetwork

CLASSES, DIM = 5, 24
MODEL = replace(config.load("digits").model, pretrained=True, embedding_channels=DIM)


def bn_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


class Projection(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Conv2d(channels, channels, 1), bn_relu(channels), nn.Conv2d(channels, DIM, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class PublishedHRNet(nn.Module):
    """HRNet_W48_CONTRAST of github.com/tfzhou/ContrastiveSeg by its names, narrower."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone = timm.create_model(
            name, pretrained=False, features_only=True, feature_location="", out_indices=(1, 2, 3, 4)
        )
        for module in self.backbone.modules():
            if isinstance(module, nn.Upsample):
                module.mode, module.align_corners = "bilinear", True
        self.channels = sum(self.backbone.feature_info.channels())
        self.add_heads(self.channels)
        self.proj_head = Projection(self.channels)

    def add_heads(self, C: int) -> None:
        conv = nn.Conv2d(C, C, 3, padding=1)
        self.cls_head = nn.Sequential(conv, bn_relu(C), nn.Dropout2d(0.1), nn.Conv2d(C, CLASSES, 1, bias=False))

    def features(self, images: Tensor) -> Tensor:
        """From images in [0, 1]: read as blue, green, red, and normalised by constants in the order of red first."""
        constants = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
        mean, std = constants
        maps = self.backbone((images.flip(1) - mean) / std)
        size = maps[0].shape[-2:]
        return torch.cat([F.interpolate(x, size, mode="bilinear", align_corners=True) for x in maps], 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        return self.cls_head(features), self.proj_head(features)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("f_pixel", "f_object"):
            convs = nn.Conv2d(512, 256, 1), bn_relu(256), nn.Conv2d(256, 256, 1), bn_relu(256)
            setattr(self, name, nn.Sequential(*convs))
        self.f_down = nn.Sequential(nn.Conv2d(512, 256, 1), bn_relu(256))
        self.f_up = nn.Sequential(nn.Conv2d(256, 512, 1), bn_relu(512))


class PublishedOCR(PublishedHRNet):
    """HRNet_W48_OCR_CONTRAST; its forward is einsums of the paper's equations."""

    def add_heads(self, C: int) -> None:
        self.conv3x3 = nn.Sequential(nn.Conv2d(C, 512, 3, padding=1), bn_relu(512))
        self.ocr_distri_head = nn.Module()
        self.ocr_distri_head.object_context_block = Attention()
        self.ocr_distri_head.conv_bn_dropout = nn.Sequential(nn.Conv2d(1024, 512, 1), bn_relu(512), nn.Dropout2d(0.05))
        self.cls_head = nn.Conv2d(512, CLASSES, 1)
        self.aux_head = nn.Sequential(nn.Conv2d(C, C, 3, padding=1), bn_relu(C), nn.Conv2d(C, CLASSES, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        block = self.ocr_distri_head.object_context_block
        x = self.conv3x3(features)
        regions = self.aux_head(features).flatten(2).softmax(2).unflatten(2, x.shape[-2:])
        objects = torch.einsum("bkhw,bchw->bck", regions, x)[..., None]
        attention = torch.einsum("bchw,bcko->bkhw", block.f_pixel(x), block.f_object(objects)) / 16
        context = block.f_up(torch.einsum("bkhw,bcko->bchw", attention.softmax(1), block.f_down(objects)))
        fused = self.ocr_distri_head.conv_bn_dropout(torch.cat([context, x], 1))
        return self.cls_head(fused), self.proj_head(features)


@torch.no_grad()
def shaken(model: nn.Module) -> nn.Module:
    """With statistics and biases of batch norms other than a fresh network's."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                tensor.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return model.eval()


def loaded(name: str, state: dict[str, Tensor] | dict[str, object], folder: Path) -> ContrastNetwork:
    path = folder / "weights.pth"
    torch.save(state, path)
    return build_model(replace(MODEL, name=name, checkpoint=str(path)), CLASSES)


@pytest.fixture(scope="module")
def published_hrnet() -> PublishedHRNet:
    return shaken(PublishedHRNet("hrnet_w18"))  # type: ignore[misc]


@pytest.fixture
def hrnet_state(published_hrnet: PublishedHRNet) -> dict[str, Tensor]:
    return OrderedDict(published_hrnet.state_dict())


@torch.no_grad()
@pytest.mark.parametrize(("name", "published"), [("hrnet_w18", PublishedHRNet), ("hrnet_w48_ocr", PublishedOCR)])
def test_contrastive_seg_gives_the_same_logits_and_embeddings(
    name: str, published: type[PublishedHRNet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ocr, "branches", lambda _: hrnet.branches("hrnet_w18"))  # the same, narrower
    theirs = shaken(published("hrnet_w18"))
    state = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    ours = loaded(name, {"config_dict": {"num_classes": CLASSES}, "state_dict": state}, tmp_path).eval()
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)  # random weights make the least differences large
    logits, embeddings = theirs.double()(images)
    ours.double()
    close = {"rtol": 1e-4, "atol": 1e-6 * logits.abs().max().item()}
    torch.testing.assert_close(ours(images)["logits"], logits, **close)
    torch.testing.assert_close(ours.projection(ours.features(images)), embeddings, **close)


def test_names_of_inplace_abn_and_the_memory_bank(hrnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    """There a batch norm and its activation are one module; the bank's queues are left out."""
    state = {
        key.replace("cls_head.1.0.", "cls_head.1.").replace("proj.1.0.", "proj.1."): value
        for key, value in hrnet_state.items()
    }
    network = loaded("hrnet_w18", {**state, "segment_queue": torch.ones(5, 2, 4)}, tmp_path)
    torch.testing.assert_close(network.projection[1].weight, state["proj_head.proj.1.weight"])


def test_the_baseline_has_no_projection(hrnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    state = {key: value for key, value in hrnet_state.items() if not key.startswith("proj_head.")}
    network = loaded("hrnet_w18", state, tmp_path)
    torch.testing.assert_close(network.classifier[4].weight, state["cls_head.3.weight"])


def test_a_model_pt_goes_on_with_its_channels_and_constants(hrnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    first = loaded("hrnet_w18", hrnet_state, tmp_path).plain_state_dict()
    network = loaded("hrnet_w18", first, tmp_path)
    second = network.plain_state_dict()
    assert second.keys() == first.keys()
    assert all(torch.equal(second[key], value) for key, value in first.items())
    assert network.mean.flatten().tolist() == pytest.approx(IMAGENET_MEAN[::-1])


IMAGENET: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "deeplabv3_resnet50": (lambda: torchvision.models.resnet50(weights=None), "fc.weight"),
    "hrnet_w18": (lambda: timm.create_model("hrnet_w18", pretrained=False), "final_layer.0.weight"),
}


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_weights_fill_the_encoder(name: str, tmp_path: Path) -> None:
    build, head = IMAGENET[name]
    weights = shaken(build()).state_dict()
    assert head in weights  # which is left out
    network = loaded(name, weights, tmp_path)
    assert all(torch.equal(value, weights[key]) for key, value in network.encoder.state_dict().items())


@torch.no_grad()
def test_torchvision_weights_give_the_same_logits(tmp_path: Path) -> None:
    build = torchvision.models.segmentation.deeplabv3_resnet50
    theirs = shaken(build(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True))
    ours = loaded("deeplabv3_resnet50", theirs.state_dict(), tmp_path).eval()
    images = torch.rand(1, 3, 64, 64)
    mean, std = ours.mean, ours.std
    logits = F.interpolate(ours(images)["logits"], (64, 64), mode="bilinear")
    torch.testing.assert_close(logits, theirs((images - mean) / std)["out"])
    torch.testing.assert_close(ours.auxiliary[1][4].weight, theirs.aux_classifier[4].weight)  # type: ignore[index]


@torch.no_grad()
def test_transformers_weights_give_the_same_logits(tmp_path: Path) -> None:
    """As save_pretrained writes them, by the names of the published files."""
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import load_file

    theirs = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(num_labels=CLASSES)).eval()
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    assert "segformer.encoder.block.0.0.attention.self.query.weight" in state
    model = replace(MODEL, name="segformer_b0", checkpoint=str(path))
    ours = build_model(model, CLASSES).eval()
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(ours(images)["logits"], theirs((images - ours.mean) / ours.std).logits)

    imagenet = {k: v for k, v in state.items() if k.startswith("segformer.")} | {"classifier.weight": torch.ones(9, 9)}
    ours = loaded("segformer_b0", imagenet, tmp_path)
    for (_, a), b in zip(ours.encoder.state_dict().items(), theirs.segformer.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)

    state["decode_head.linear_fuse.weight"] = torch.ones(1, 2, 1, 1)
    state["else"] = state.pop("decode_head.classifier.bias")
    with pytest.raises(TrainingError) as error:
        loaded("segformer_b0", state, tmp_path)
    assert "missing: classifier.1.bias" in str(error.value)
    assert "unexpected: else" in str(error.value)
    assert "another shape: decoder.linear_fuse.weight: got [1, 2, 1, 1], want [256, 1024, 1, 1]" in str(error.value)


def test_what_does_not_fit_is_named(hrnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    del hrnet_state["backbone.stage2.0.branches.0.0.conv1.weight"]
    hrnet_state["cls_head.3.weight"] = torch.ones(19, 270, 1, 1)
    hrnet_state["backbone.stage9.weight"] = torch.ones(1)
    with pytest.raises(TrainingError) as error:
        loaded("hrnet_w18", hrnet_state, tmp_path)
    for line in (
        "does not fit hrnet_w18, as ContrastiveSeg's HRNet",
        "missing: encoder.stage2.0.branches.0.0.conv1.weight",
        "unexpected: encoder.stage9.weight",
        "of another shape: classifier.4.weight: got [19, 270, 1, 1], want [5, 270, 1, 1]",
    ):
        assert line in str(error.value)


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    for state, message in (
        ({"best": 3}, "want tensors by name"),
        ({"x.weight": torch.ones(1)}, r"got tensors x.weight; deeplabv3plus_efficientnet_lite0 wants one of model.pt"),
        (
            {"state_dict": config.load},
            "no weights that can be read safely: it holds fastpixcon.training.config.load, want",
        ),
    ):
        with pytest.raises(TrainingError, match=message):
            loaded(MODEL.name, state, tmp_path)
    with pytest.raises(TrainingError, match=r"model.checkpoint: got '/no/file', want a file"):
        build_model(replace(MODEL, checkpoint="/no/file"), 2)
