"""ContrastModel: the gradient of the contrast reaches what is before its layer, or an error says why not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastpixcon as fpc


class Network(nn.Module):
    """``how`` it runs backbone, neck and classifier."""

    def __init__(self, how: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.3))
        self.neck = nn.Conv2d(8, 8, 1)
        self.classifier = nn.Conv2d(8, 5, 1)
        self.how = how

    def forward(self, images: Tensor) -> Any:
        return self.how(self, images)

    def end(self, x: Tensor) -> Tensor:
        return self.classifier(self.neck(x))


def whole(net: Any, x: Tensor) -> Tensor:
    return net.end(net.backbone(x))


def not_reentrant(net: Any, x: Tensor) -> Tensor:
    return checkpoint(whole, net, x, use_reentrant=False)


def reentrant(net: Any, x: Tensor) -> Tensor:
    return checkpoint(whole, net, x.requires_grad_(), use_reentrant=True)


def reentrant_neck(net: Any, x: Tensor) -> Tensor:
    """As transformers' gradient checkpointing: the layer is in a part whose input has a gradient."""
    return checkpoint(net.end, net.backbone(x), use_reentrant=True)


def reentrant_at_the_layer(net: Any, x: Tensor) -> Tensor:
    return checkpoint(net.classifier, net.neck(net.backbone(x)), use_reentrant=True)


def reentrant_before(net: Any, x: Tensor) -> Tensor:
    """torch warns that no input has a gradient, and gives none."""
    return net.classifier(checkpoint(lambda y: net.neck(net.backbone(y)), x, use_reentrant=True))


def without_grad(net: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        features = net.neck(net.backbone(x))
    return net.classifier(features)


def in_inference_mode(net: Any, x: Tensor) -> Tensor:
    with torch.inference_mode():
        features = net.neck(net.backbone(x))
    return net.classifier(features.clone())


def detached(net: Any, x: Tensor) -> Tensor:
    return net.classifier(net.neck(net.backbone(x)).relu_().detach())


LOST = [reentrant, reentrant_neck, reentrant_before, without_grad, in_inference_mode, detached]


def images() -> Tensor:
    return torch.rand(2, 3, 8, 8)


def gradients(how: Callable[[Any, Tensor], Tensor], frozen: tuple[str, ...] = ()) -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = Network(how)
    for name in frozen:
        network.get_submodule(name).requires_grad_(False)
    model = fpc.ContrastModel(network, at="classifier", dim=6)
    torch.manual_seed(1)
    model(images())["embeddings"].square().mean().backward()
    assert network.classifier._contrast_inputs is None  # nothing is left of a forward that ran in the backward
    return {name: x.grad for name, x in model.named_parameters() if x.grad is not None}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", LOST, ids=lambda how: how.__name__)
def test_a_gradient_that_is_lost_is_an_error(how: Callable[[Any, Tensor], Tensor]) -> None:
    message = r"features before 'classifier' have no gradient, but are made with '(backbone.0|backbone.1|neck).weight'"
    with pytest.raises(RuntimeError, match=message + r".*use_reentrant=False.*requires_grad_\(False\)"):
        gradients(how)
    with pytest.raises(RuntimeError, match=r"made with 'neck.weight'"):
        gradients(how, frozen=("backbone",))
    model = fpc.ContrastModel(Network(how), at="classifier")
    with torch.no_grad():
        assert "embeddings" in model(images())  # nothing is asked for
    assert set(model.eval()(images())) == {"logits"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", [whole, *LOST], ids=lambda how: how.__name__)
def test_a_frozen_network_trains_its_head(how: Callable[[Any, Tensor], Tensor]) -> None:
    found = gradients(how, frozen=("backbone", "neck"))
    assert {name.partition(".")[0] for name in found} == {"projection"}
    everything = gradients(how, frozen=("backbone", "neck", "classifier"))
    for name, x in found.items():
        torch.testing.assert_close(everything[name], x)


@pytest.mark.parametrize("how", [not_reentrant, reentrant_at_the_layer], ids=lambda how: how.__name__)
def test_a_checkpoint_gives_the_gradient_of_the_plain_network(how: Callable[[Any, Tensor], Tensor]) -> None:
    plain, found = gradients(whole), gradients(how)
    assert "model.backbone.0.weight" in found
    assert found.keys() == plain.keys()
    for name, x in plain.items():
        torch.testing.assert_close(found[name], x)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_the_whole_model_in_a_checkpoint(use_reentrant: bool) -> None:
    found = []
    for call in (lambda f, x: f(x), lambda f, x: checkpoint(f, x, use_reentrant=use_reentrant)):
        torch.manual_seed(0)
        model = fpc.ContrastModel(Network(whole), at="classifier", dim=6)
        call(lambda x, model=model: model(x)["embeddings"], images().requires_grad_()).square().mean().backward()
        found.append({name: x.grad for name, x in model.named_parameters() if x.grad is not None})
    assert found[0].keys() >= {"model.backbone.0.weight", "model.neck.weight", "projection.0.weight"}
    torch.testing.assert_close(*found)


def test_an_unfrozen_part_is_looked_at_again() -> None:
    model = fpc.ContrastModel(Network(detached), at="classifier")
    network: Any = model.model
    network.backbone.requires_grad_(False)
    network.neck.requires_grad_(False)
    for _ in range(2):
        model(images())
    network.neck.requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"made with 'neck.weight'"):
        model(images())


class TwoHeads(Network):
    """The classifier takes frozen features; another head learns, before it or after it."""

    def __init__(self) -> None:
        super().__init__(whole)
        self.runs = 0
        self.other = nn.Sequential(nn.BatchNorm2d(8), nn.Dropout(0.5))

    def forward(self, images: Tensor) -> Any:
        self.runs += 1
        features = self.neck(self.backbone(images))
        before = self.other(features)
        return {"out": self.classifier(features), "aux": self.other(features) + before}


def test_a_head_that_learns_beside_frozen_features_is_no_error() -> None:
    network = TwoHeads()
    network.backbone.requires_grad_(False)
    network.neck.requires_grad_(False)
    model = fpc.ContrastModel(network, at="classifier", dim=6)
    torch.manual_seed(1)
    model(images())["embeddings"].square().mean().backward()
    assert model.projection[0].weight.grad is not None
    assert network.runs == 2  # the first time it was looked for what the features are made of
    after = torch.rand(())
    torch.manual_seed(1)
    network(images())
    torch.testing.assert_close(torch.rand(()), after)  # which nobody notices: neither random numbers
    assert network.other[0].num_batches_tracked == 4  # nor buffers
    model(images())
    assert network.runs == 4


def test_a_frozen_network_in_autocast() -> None:
    network = Network(detached)
    model = fpc.ContrastModel(network, at="classifier", dim=6)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="made with"):
        model(images())
    network.how = whole
    network.backbone.requires_grad_(False)
    network.neck.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(images())
        (outputs["embeddings"].square().mean() + outputs["logits"].square().mean()).backward()
    assert network.classifier.weight.grad is not None


@pytest.mark.filterwarnings("ignore")
def test_the_same_while_it_is_compiled() -> None:
    torch._dynamo.reset()
    network = TwoHeads()
    network.backbone.requires_grad_(False)
    network.neck.requires_grad_(False)
    model = fpc.ContrastModel(network, at="classifier", dim=6)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for size in (8, 8, 12):
        outputs = compiled(images=torch.rand(2, 3, size, size))
        outputs["embeddings"].square().mean().backward()
    assert model.projection[0].weight.grad is not None
    assert network.runs == 2  # once to trace it, once to look
    for how in (detached, without_grad):
        torch._dynamo.reset()
        for call in (lambda f: f(images()), lambda f: f(images=images())):
            compiled = torch.compile(fpc.ContrastModel(Network(how), at="classifier"), fullgraph=True, backend="eager")
            with pytest.raises(RuntimeError, match=r"made with '(backbone.0|neck).weight'"):
                call(compiled)
    torch._dynamo.reset()
