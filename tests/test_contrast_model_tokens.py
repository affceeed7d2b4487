"""ContrastModel before layers that take tokens, maps with channels last, sequences and volumes."""

import copy
import pickle
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastpixcon as fpc
from fastpixcon import grids


class Transformer(nn.Module):
    """Its head takes p tokens and those of the patches, [B, p + h w, C]."""

    def __init__(self, p: int = 1, patch: int | tuple[int, int] = 4, tells: bool = True) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, patch, stride=patch)
        if tells:
            self.patch_size = patch
        self.register_parameter("cls_token" if tells else "before", nn.Parameter(torch.randn(1, p, 8)))
        self.block = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU())
        self.head = nn.Linear(8, 5)

    def map(self, images: Tensor) -> Tensor:
        """[B, C, h, w], of the same features."""
        return self.block(self.patches(images).movedim(1, -1)).movedim(-1, 1)

    def tokens(self, images: Tensor) -> Tensor:
        before = getattr(self, "cls_token", None)
        x = self.patches(images).flatten(2).mT
        before = self.before if before is None else before
        return self.block(torch.cat([before.expand(len(x), -1, -1), x], dim=1))

    def forward(self, images: Tensor, *_: Any) -> Any:
        return self.head(self.tokens(images)).mT[..., None]


class Taking(nn.Module):
    """Its layer takes what it is called with, times one, and it gives that back as logits."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.scale = layer, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        self.layer(x * self.scale)
        return x


def images(H: int = 16, W: int = 24) -> Tensor:
    return torch.rand(2, 3, H, W)


def sizes(model: fpc.ContrastModel, *args: Any) -> tuple[int, ...]:
    return tuple(model(*args)["embeddings"].shape[2:])


@pytest.mark.parametrize("p", [0, 1, 5])
def test_tokens_are_a_map_of_where_they_come_from(p: int) -> None:
    network = Transformer(p)
    model, x = fpc.ContrastModel(network, at="head", dim=6), images()
    assert model.channels == 8
    found = model(x)["embeddings"]
    assert found.shape == (2, 6, 4, 6)
    torch.testing.assert_close(found, model.projection(network.map(x)))
    found.square().mean().backward()
    grad = network.patches.weight.grad
    assert grad is not None
    assert grad.abs().max() > 0
    torch.testing.assert_close(model.eval().embed(x), model.projection(network.map(x)))
    assert set(model(x)) == {"logits"}


def test_they_are_a_view_in_channels_last() -> None:
    model = fpc.ContrastModel(Transformer(5), at="head", dim=6)
    taken: list[Tensor] = []
    for layer in (model.model.head, model.projection):
        layer.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))  # type: ignore[union-attr]
    outputs = model(images())
    tokens, features = taken
    assert features.shape == (2, 8, 4, 6)
    assert features.stride() == (29 * 8, 1, 6 * 8, 8)
    assert features.data_ptr() == tokens[:, 5:].data_ptr()
    assert outputs["embeddings"].is_contiguous(memory_format=torch.channels_last)


def test_the_grid_follows_the_images() -> None:
    model = fpc.ContrastModel(Transformer(5), at="head", dim=6)
    for H, W in ((16, 24), (24, 16), (4, 96), (18, 27)):  # of the last a rest is left out
        assert sizes(model, images(H, W)) == (H // 4, W // 4)
    assert sizes(fpc.ContrastModel(Transformer(patch=(8, 4)), at="head"), images()) == (2, 6)
    network: Any = Transformer()
    network.patches.register_forward_pre_hook(lambda _, x: nn.functional.pad(x[0], (0, 1, 0, 2)))  # a rest is padded
    assert sizes(fpc.ContrastModel(network, at="head"), images(14, 23)) == (4, 6)


class Registers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token, self.register_tokens = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(1, 4, 8))


def in_its_config(network: Any) -> None:
    network.embeddings, network.config = Registers(), types.SimpleNamespace(patch_size=4)


def in_parts(network: Any) -> None:
    network.patches.patch_size = (4, 4)
    network.patches.num_prefix_tokens = 5


def by_the_number_before_alone(network: Any) -> None:
    network.num_prefix_tokens = 5


@pytest.mark.parametrize("tell", [in_its_config, in_parts, by_the_number_before_alone], ids=lambda f: f.__name__)
def test_what_the_network_tells(tell: Callable[[Any], None]) -> None:
    network = Transformer(5, tells=False)
    model = fpc.ContrastModel(network, at="head", dim=6)
    with pytest.raises(ValueError, match=r"grid: got None, and the 29 tokens .* fit no grid that can be told"):
        model(images())
    tell(network)
    for x in (images(), images(16, 16), images(24, 16)):
        torch.testing.assert_close(model(x)["embeddings"], model.projection(network.map(x)))


def test_a_replica_tells_the_same() -> None:
    """As DataParallel makes one: parameters are attributes."""
    for network in (Transformer(5), Registers()):
        made: Any = network._replicate_for_data_parallel()  # type: ignore[operator]
        for name, x in network._parameters.items():
            setattr(made, name, x.detach())  # type: ignore[union-attr]
        assert grids.told(made) == grids.told(network)
        assert grids.told(made)[1] == (5,)


def test_a_grid_that_is_named() -> None:
    network = Transformer(3, tells=False)
    model = fpc.ContrastModel(network, at="head", dim=6, grid=[4, 6])
    x = images()
    torch.testing.assert_close(model(x)["embeddings"], model.projection(network.map(x)))
    assert "grid=(4, 6)" in repr(model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied.grid == (4, 6)
        assert sizes(copied, images()) == (4, 6)
    for H, W in ((16, 16), (20, 24), (16, 28), (24, 36)):  # fewer tokens, a row more, a column more, many more
        with pytest.raises(ValueError, match=rf"grid: got \(4, 6\), 24 tokens, and 'head' takes .* of {H} x {W} \(no"):
            model(images(H, W))
    volumes = fpc.ContrastModel(Taking(nn.Linear(8, 5)), at="layer", dim=6, grid=(2, 3, 4))
    assert sizes(volumes, torch.rand(2, 24, 8)) == (2, 3, 4)
    network.num_prefix_tokens = 1
    with pytest.raises(
        ValueError, match=r"takes 27 .*\(1 tokens are told .*\), want .* num_prefix_tokens of the network"
    ):
        model(images())


def told(**attributes: Any) -> Any:
    network = Transformer()
    for name, value in attributes.items():
        setattr(network, name, value)
    return network


def two_sizes_of_patches() -> Any:
    network: Any = Transformer()
    network.patches.patch_size = (8, 2)
    return network


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (told(patch_size=5), r"fit no grid that can be told \(patch_size 5; 1 tokens are told to be before the grid\)"),
        (told(num_prefix_tokens=2), r"fit no grid .*\(patch_size 4; 2 tokens"),
        (told(num_prefix_tokens=2, patch_size=None), r"fit no grid .*\(the network tells no patch_size; 2 tokens"),
        (two_sizes_of_patches(), "may be 4 x 6 or 2 x 12"),
    ],
)
def test_a_grid_that_cannot_be_told(network: nn.Module, message: str) -> None:
    model = fpc.ContrastModel(network, at="head", dim=6)
    before = r"grid: got None, and the 25 tokens before 'head' of images of 16 x 24"
    with pytest.raises(ValueError, match=rf"{before} {message}.*, want grid=\(h, w\)"):
        model(images())


def test_images_that_are_not_seen() -> None:
    class Wrapped(Transformer):
        def forward(self, images: Any, *_: Any) -> Any:
            return super().forward(images.tensors if hasattr(images, "tensors") else images["pixels"])

    model, x = fpc.ContrastModel(Wrapped(), at="head", dim=6), images()
    assert sizes(model, {"ids": torch.zeros(2, 3), "pixels": x}) == (4, 6)
    with pytest.raises(ValueError, match=r"tokens before 'head', of no images that are seen, fit no grid"):
        model(types.SimpleNamespace(tensors=x))
    model.grid = (4, 6)
    assert sizes(model, types.SimpleNamespace(tensors=x)) == (4, 6)


@pytest.mark.parametrize("grid", [4, "44", (), (4, 4, 4, 4), (4, 0), (4.0, 4), (True, 4)])
def test_what_is_no_grid(grid: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="grid: got"):
        fpc.ContrastModel(Transformer(), at="head", grid=grid)


class LayerNorm2d(nn.LayerNorm):
    """Over the second axis, as timm's."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


# A layer, what it takes, and which axis the channels are.
LAYOUTS = [
    (nn.Linear(8, 2), (2, 4, 6, 8), -1),
    (nn.Linear(8, 2), (2, 8, 8, 8), -1),
    (nn.LayerNorm(8), (2, 8, 6, 8), -1),
    (LayerNorm2d(8), (2, 8, 6, 8), 1),
    (nn.Conv2d(8, 2, 1), (2, 8, 6, 8), 1),
    (nn.Sequential(nn.Dropout(), nn.Linear(8, 2)), (2, 8, 4, 8), -1),
    (nn.Linear(8, 2), (2, 3, 4, 6, 8), -1),
    (nn.Conv3d(8, 2, 1), (2, 8, 3, 4, 6), 1),
    (nn.GroupNorm(2, 8), (2, 8, 3, 4, 8), 1),
    (nn.Conv1d(8, 2, 1), (2, 8, 6), 1),
    (nn.BatchNorm1d(8), (2, 8, 8), 1),
]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("layer", "shape", "axis"), LAYOUTS)
def test_maps_of_any_rank_and_layout(layer: nn.Module, shape: tuple[int, ...], axis: int, channels_last: bool) -> None:
    model = fpc.ContrastModel(Taking(layer), at="layer", dim=6)
    assert model.channels == 8
    x = torch.rand(shape)
    if channels_last and len(shape) > 3:
        x = x.to(memory_format=torch.channels_last if len(shape) == 4 else torch.channels_last_3d)
    found = model(x)["embeddings"]
    pixels = x.movedim(axis, 1)
    assert found.shape == (2, 6, *pixels.shape[2:])
    torch.testing.assert_close(found.flatten(2), model.projection(pixels.flatten(2)[..., None])[..., 0])
    if channels_last and found.ndim == 5 and axis == 1:
        assert found.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(("layer", "shape"), [(nn.Conv1d(8, 2, 1), (2, 8, 12)), (nn.Linear(8, 2), (2, 2, 3, 4, 8))])
def test_a_step_with_sequences_and_volumes(layer: nn.Module, shape: tuple[int, ...]) -> None:
    network = Taking(layer)
    embeddings = fpc.ContrastModel(network, at="layer", dim=6)(torch.randn(shape))["embeddings"]
    labels = (torch.arange(embeddings.shape[-1]) % 2).expand(2, *embeddings.shape[2:])
    loss = fpc.PixelContrastLoss(max_samples=16, max_views=2)(embeddings, labels, torch.zeros_like(labels))
    loss.backward()
    assert loss > 0
    assert network.scale.grad is not None
    assert network.scale.grad.isfinite()


def test_what_may_be_tokens_or_a_sequence() -> None:
    network = Taking(nn.Identity())
    model = fpc.ContrastModel(network, at="layer", channels=8)
    with pytest.raises(ValueError, match=r"grid: got None, and \[2, 8, 8\] before 'layer' may be tokens .* or a map"):
        model(torch.rand(2, 8, 8))
    assert sizes(fpc.ContrastModel(network, at="layer", channels=8, grid=(2, 4)), torch.rand(2, 8, 8)) == (2, 4)
    assert sizes(model, torch.rand(2, 8, 6)) == (6,)
    with pytest.raises(ValueError, match="grid: got None, and the 6 tokens before 'layer'"):
        model(torch.rand(2, 6, 8))


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.Conv2d(8, 2, 1), (2, 7, 4, 8), "channels: got 8, want 7, the features before 'layer'"),
        (nn.Linear(8, 2), (2, 8, 4, 7), "channels: got 8, want 7, the features before 'layer'"),
        (nn.Linear(8, 2), (2, 8, 7), "channels: got 8, want 7, the features before 'layer'"),
        (nn.Identity(), (2, 7, 5, 5), "channels: got 8, want 7, the features before 'layer'"),
        (nn.Identity(), (2, 5, 7), "channels: got 8, want 7, the features before 'layer'"),
        (nn.Conv2d(8, 2, 1), (2, 8, 4, 7), r"grid: got \(4, 6\), and 'layer' takes a map of 4 x 7, want None"),
    ],
)
def test_widths_and_maps_that_are_others(layer: nn.Module, shape: tuple[int, ...], message: str) -> None:
    network = Taking(layer)
    network.layer.forward = lambda x: x  # type: ignore[method-assign]
    model = fpc.ContrastModel(network, at="layer", channels=8, grid=(4, 6) if "grid" in message else None)
    with pytest.raises(ValueError, match=message):
        model(torch.rand(shape))


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("tells", ["patch_size", "the number before alone"])
def test_compiles_in_one_graph_for_images_of_any_size(tells: str) -> None:
    network: Any = Transformer(5)
    if tells != "patch_size":
        del network.patch_size
    model = fpc.ContrastModel(network, at="head", dim=6)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for x in (images(), images(24, 36)):
        for key, value in model(x).items():
            torch.testing.assert_close(compiled(x)[key], value)
    network.num_prefix_tokens = 4
    torch._dynamo.reset()
    with pytest.raises(Exception, match="the 29 tokens before 'head'"):
        torch.compile(model, backend="eager")(images())


@pytest.mark.usefixtures("fresh_dynamo")
def test_the_compiled_gradient() -> None:
    model, x = fpc.ContrastModel(Transformer(5), at="head", dim=6), images()
    plain = gradients(model, x)
    compiled: Any = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = gradients(model, x, compiled)  # with zeros of the head, which has no part in it
    torch.testing.assert_close({name: found[name] for name in plain}, plain)


def gradients(model: fpc.ContrastModel, x: Tensor, forward: Any = None) -> dict[str, Tensor]:
    model.zero_grad()
    (model if forward is None else forward)(x)["embeddings"].square().mean().backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.filterwarnings("ignore")
def test_checkpoints_and_gradients_that_are_lost() -> None:
    network: Any = Transformer(5)
    model, x = fpc.ContrastModel(network, at="head", dim=6), images()
    plain = gradients(model, x)
    assert "model.block.1.weight" in plain
    run = network.tokens
    network.tokens = lambda x: checkpoint(run, x, use_reentrant=False)
    torch.testing.assert_close(gradients(model, x), plain)
    for lose in (lambda x: checkpoint(run, x, use_reentrant=True), lambda x: run(x).detach(), torch.no_grad()(run)):
        network.tokens = lose
        with pytest.raises(RuntimeError, match=r"before 'head' have no gradient, but are made with '(cls_token|block)"):
            model(x)
    network.tokens = run
    torch.testing.assert_close(gradients(model, x), plain)
