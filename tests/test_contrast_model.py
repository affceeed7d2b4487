"""ContrastModel: embeddings from the features before a layer of any network."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import fastpixcon as fpc


class Plain(nn.Module):
    """Logits at half the resolution, as a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.classifier = nn.Conv2d(8, 5, 1)

    def forward(self, images: Tensor) -> Any:
        return self.classifier(self.backbone(images))


def images(size: int = 64) -> Tensor:
    return torch.rand(2, 3, size, size)


def test_embeddings_are_the_head_on_the_features_before_the_layer() -> None:
    network = Plain()
    model = fpc.ContrastModel(network, at="classifier", dim=6)
    x = images(8)
    outputs = model(x)
    assert set(outputs) == {"logits", "embeddings"}
    torch.testing.assert_close(outputs["logits"], network(x))
    torch.testing.assert_close(outputs["embeddings"], model.projection(network.backbone(x)))
    assert outputs["embeddings"].shape == (2, 6, 4, 4)
    outputs["embeddings"].square().mean().backward()
    grad = network.backbone[0].weight.grad
    assert grad is not None
    assert grad.abs().max() > 0


def test_a_step_with_the_loss() -> None:
    model = fpc.ContrastModel(Plain(), at="classifier", dim=6)
    contrast = fpc.PixelContrastLoss(max_samples=32, max_views=4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, labels = images(32), torch.arange(4).repeat_interleave(8)[None, :, None].expand(2, 32, 32)
    losses = []
    for _ in range(20):
        outputs = model(x)
        loss = contrast(outputs["embeddings"], labels, outputs["logits"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_eval_gives_logits_alone_and_keeps_nothing() -> None:
    model = fpc.ContrastModel(Plain(), at="classifier").eval()
    assert set(model(images(8))) == {"logits"}
    model.train()
    model(images(8))
    assert model.model.classifier._contrast_inputs is None  # type: ignore[union-attr]
    model.model(images(8))  # by itself
    assert model.model.classifier._contrast_inputs is None  # type: ignore[union-attr]


def test_state_dict_and_export() -> None:
    network = Plain()
    keys, x = list(network.state_dict()), images(8)
    model = fpc.ContrastModel(network, at="classifier", dim=6)
    ours = [key for key in model.state_dict() if not key.startswith("projection.")]
    assert ours == [f"model.{key}" for key in keys]
    plain = model.eval().export()
    assert type(plain) is Plain
    assert list(plain.state_dict()) == keys
    torch.testing.assert_close(plain(x), model(x)["logits"])
    assert vars(plain.classifier).keys() == vars(nn.Conv2d(8, 5, 1)).keys()
    assert not plain.classifier._forward_pre_hooks
    assert "embeddings" in model.train()(x)  # the model has kept its own hook


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_sees_its_own_features(copied: Callable[[Any], Any]) -> None:
    model = fpc.ContrastModel(Plain(), at="classifier", dim=6)
    second, x = copied(model), images(8)
    torch.testing.assert_close(second(x)["embeddings"], model(x)["embeddings"])
    with torch.no_grad():
        second.model.backbone[0].weight.zero_()
    assert not torch.allclose(second(x)["embeddings"], model(x)["embeddings"])
    assert len(second.model.classifier._forward_pre_hooks) == 1
    assert not second.export().classifier._forward_pre_hooks


class Shaped(Plain):
    """Its output in the shape that some library gives it."""

    def __init__(self, shape: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, images: Tensor) -> Any:
        return self.shape(super().forward(images))


class WithLogits:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Output(NamedTuple):
    loss: Tensor
    logits: Tensor | None = None
    aux: Tensor | None = None


@pytest.mark.parametrize(
    "shape",
    [
        lambda x: x,
        lambda x: {"out": x},
        lambda x: {"logits": x, "out": None},
        lambda x: {"logits": x, "out": x},
        lambda x: {"loss": x.mean(), "logits": x},
        lambda x: {"out": x.mean(), "logits": x},
        lambda x: (x, None),
        lambda x: (x, 2 * x),  # deep supervision: the first
        lambda x: (x.mean(), x),
        lambda x: (x.mean(), None, (x,)),
        lambda x: (x.argmax(1), x),
        lambda x: (x[:, 0], x),  # the loss of each pixel
        lambda x: (x.mean(), {"aux": 2 * x, "out": x}),
        lambda x: [{"out": x}],
        lambda x: Output(x.mean(), x),
        lambda x: Output(2 * x, x),
        WithLogits,
        lambda x: (x.mean(), WithLogits(x)),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_logits_are_found(shape: Callable[[Tensor], Any], training: bool) -> None:
    model, x = fpc.ContrastModel(Shaped(shape), at="classifier").train(training), images(8)
    found = model(x)["logits"]
    model.model.shape = lambda logits: logits
    torch.testing.assert_close(found, model(x)["logits"])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (lambda x: x.mean(), r"a tensor of shape \[\]"),
        (lambda x: x.mean((2, 3)), r"a tensor of shape \[2, 5\]"),
        (lambda x: x.argmax(1), r"a tensor of torch.int64 of shape \[2, 4, 4\]"),
        (
            lambda x: (x.mean(), x.argmax(1)),
            r"\(a tensor of shape \[\], a tensor of torch.int64 of shape \[2, 4, 4\]\)",
        ),
        (lambda x: {"loss": x.mean(), "logits": x.mean((2, 3))}, r"'logits': a tensor of shape \[2, 5\]"),
        (
            lambda x: {"logits": x, "out": 2 * x},
            r"'logits': a tensor .*, 'out': a tensor .*, want logits .*, one of them",
        ),
        (lambda x: {"out": x, "aux": x.mean()}, r"'aux': a tensor of shape \[\], want auxiliary \[B, K, H, W\]"),
        (lambda x: {"out": x, "aux": [x, x]}, r"'aux': list, want auxiliary \[B, K, H, W\]"),
        (lambda x: Output(x.mean()), r"\(a tensor of shape \[\], NoneType, NoneType\)"),
        (lambda x: WithLogits(x.mean()), r"WithLogits with logits: a tensor of shape \[\]"),
        (lambda x: (), r"\(\), want logits"),
        (lambda x: None, "NoneType, want logits"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_what_are_no_logits_is_told(shape: Callable[[Tensor], Any], message: str, training: bool) -> None:
    model = fpc.ContrastModel(Shaped(shape), at="classifier").train(training)
    with pytest.raises(TypeError, match=f"model: its output has {message}"):
        model(images(8))


def test_auxiliary_logits_are_kept() -> None:
    model = fpc.ContrastModel(Shaped(lambda x: {"out": x, "aux": 2 * x}), at="classifier")
    outputs = model(images(8))
    torch.testing.assert_close(outputs["auxiliary"], 2 * outputs["logits"])
    model = fpc.ContrastModel(Shaped(lambda x: {"out": x, "aux": None}), at="classifier")
    assert set(model(images(8))) == {"logits", "embeddings"}


@pytest.mark.parametrize("training", [True, False])
def test_embed_gives_embeddings_in_either_mode(training: bool) -> None:
    model, x = fpc.ContrastModel(Shaped(lambda x: x.mean()), at="classifier", dim=6).train(training), images(8)
    before = model.model.backbone[1].num_batches_tracked.clone()
    embeddings = model.embed(x)
    assert embeddings.shape == (2, 6, 4, 4)
    assert embeddings.requires_grad
    assert all(layer.training is training for layer in model.modules())
    assert (model.model.backbone[1].num_batches_tracked - before) == training
    torch.testing.assert_close(embeddings, model.projection(model.model.backbone(x)))
    with torch.no_grad():
        unit = model.embed(images=x, normalize=True)
    assert not unit.requires_grad
    torch.testing.assert_close(unit, embeddings / embeddings.norm(dim=1, keepdim=True))
    assert model.model.classifier._contrast_inputs is None


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fpc.ContrastModel(Plain(), at="clasifier"), ValueError, r"at: got 'clasifier'.*'classifier'"),
        (lambda: fpc.ContrastModel(Plain(), at=""), ValueError, "at: got ''"),
        (
            lambda: fpc.ContrastModel(Plain(), at="backbone.2"),
            ValueError,
            "channels: got None, and 'backbone.2' has no",
        ),
        (lambda: fpc.ContrastModel(Plain(), at="classifier", dim=0), ValueError, "dim"),
        (lambda: fpc.ContrastModel(str, at="x"), TypeError, "model: got type"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_wrong_networks() -> None:
    model = fpc.ContrastModel(Plain(), at="backbone.2", channels=3)
    with pytest.raises(ValueError, match=r"channels: got 3, want 8, the features before 'backbone.2'"):
        model(images(8))
    network = Plain()
    network.unused = nn.Conv2d(4, 4, 1)
    with pytest.raises(RuntimeError, match=r"at: 'unused' did not run"):
        fpc.ContrastModel(network, at="unused")(images(8))
    with pytest.raises(TypeError, match=r"model: its output has keys \['masks'\], want logits"):
        fpc.ContrastModel(Shaped(lambda x: {"masks": x}), at="classifier")(images(8))
    network = Plain()
    network.backbone.append(nn.Flatten(1))
    network.classifier = nn.Linear(128, 5)  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"at: 'classifier' takes \[2, 128\], want a submodule that takes features"):
        fpc.ContrastModel(network, at="classifier")(images(8))


def test_autocast() -> None:
    model = fpc.ContrastModel(Plain(), at="classifier")
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(images(8))
    assert outputs["embeddings"].dtype == outputs["logits"].dtype == torch.bfloat16


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_dynamo")
def test_compiles_in_one_graph() -> None:
    model = fpc.ContrastModel(Plain(), at="classifier", dim=6)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = images(8)
    for key, value in model(x).items():
        torch.testing.assert_close(compiled(x)[key], value)
    compiled(x)["embeddings"].square().mean().backward()
    assert model.projection[0].weight.grad is not None
    model.eval()
    assert set(compiled(x)) == {"logits"}
    model.train()
    assert set(compiled(x)) == {"logits", "embeddings"}


def test_distributed_data_parallel(tmp_path: Any) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        alone = fpc.ContrastModel(Plain(), at="classifier", dim=6)
        parallel = DistributedDataParallel(copy.deepcopy(alone))
        x = images(8)
        for model in (alone, parallel):
            outputs = model(x)
            (outputs["logits"].square().mean() + outputs["embeddings"].square().mean()).backward()
        for a, b in zip(alone.parameters(), parallel.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)
    finally:
        dist.destroy_process_group()


@pytest.mark.usefixtures("fresh_dynamo")
def test_a_network_of_another_library_compiles_in_one_graph() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch", reason="segmentation-models-pytorch")
    unet = smp.Unet("resnet18", encoder_weights=None, classes=5)
    compiled = torch.compile(fpc.ContrastModel(unet, at="segmentation_head"), fullgraph=True, backend="eager")
    assert set(compiled(images())) == {"logits", "embeddings"}


def test_the_library_alone_imports_no_other() -> None:
    code = "import sys, fastpixcon as f; print(*(m for m in sys.argv[1:] if m in sys.modules))"
    names = ["torchvision", "timm", "transformers", "lightning", "pytorch_metric_learning", "fastpixcon.training"]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
