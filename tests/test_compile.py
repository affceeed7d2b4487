"""torch.compile(fullgraph=True): the same numbers as eager, forward and backward, on the backend that was chosen."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from harness.tested_backends import Backend
from torch import Tensor

import fastpixcon as fpc
from fastpixcon import functional
from fastpixcon.ops import define

B, D, h, w, K = 2, 16, 9, 10, 3
SELECTION: dict[str, Any] = {"max_samples": 30, "max_views": 5}


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Traced and functionalised; ``backend="inductor"`` also generates code."""
    return torch.compile(function, fullgraph=True, **{"backend": "aot_eager", **options})


def images(device: str, B: int = B, h: int = h, w: int = w) -> tuple[Tensor, Tensor, Tensor]:
    labels = torch.arange(K).repeat_interleave(8)[None, :, None].expand(B, -1, 20).contiguous()
    return tuple(x.to(device) for x in (torch.randn(B, D, h, w, requires_grad=True), labels, torch.randn(B, K, h, w)))


def with_gradients(function: Callable[..., Tensor], *arguments: Any) -> list[Tensor]:
    inputs = [x for x in arguments if isinstance(x, Tensor) and x.requires_grad]
    loss = function(*arguments)
    return [loss.detach(), *torch.autograd.grad(loss, inputs)]


def same_as_eager(function: Callable[..., Tensor], *arguments: Any, **options: Any) -> None:
    expected = with_gradients(function, *arguments)
    for actual, wanted in zip(with_gradients(compiled(function, **options), *arguments), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("denominator", ["negatives", "all"])
def test_info_nce(denominator: str, backend: Backend) -> None:
    x, c = (torch.randn(n, 8, device=backend.device, requires_grad=True) for n in (20, 15))
    y, z = (torch.arange(n, device=backend.device) % 4 for n in (20, 15))
    tau = torch.tensor(0.2, device=backend.device, requires_grad=True)

    def own(x: Tensor) -> Tensor:
        return functional.info_nce(x, y, denominator=denominator)

    def separate(x: Tensor, c: Tensor, tau: Tensor) -> Tensor:
        return functional.info_nce(
            x,
            y,
            c,
            z,
            temperature=tau,
            base_temperature=0.07,
            denominator=denominator,
            normalize=False,
            reduction="sum",
        )

    same_as_eager(own, x)
    same_as_eager(separate, x * 0.1, c, tau)


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_rules_of_pairs(compiler: str, complete_backend: Backend) -> None:
    device = complete_backend.device
    x, y = torch.randn(20, 8, device=device, requires_grad=True), torch.arange(20, device=device) % 4
    v, groups = torch.rand(20, device=device), torch.arange(20, device=device) // 5
    W = torch.rand(4, 4, device=device)
    rules = [
        {"weights": v, "contrast_weights": v, "pairs": fpc.Pairs(class_weights=W, balanced=True)},
        {"groups": groups, "pairs": fpc.Pairs("other", "same"), "denominator": "decoupled"},
        {"groups": groups, "contrast_weights": v, "pairs": fpc.Pairs("same", "other", W), "temperature": 0.02},
    ]
    with fpc.backend(complete_backend.name):
        if compiler == "inductor" and complete_backend.name == "reference":
            rules = rules[:1]  # code of torch's alone: a second an operator of its own
        for rule in rules:
            same_as_eager(lambda x, rule=rule: functional.info_nce(x, y, **rule), x, backend=compiler)
        embeddings, labels, logits = images(device)
        contrast = fpc.PixelContrastLoss(
            max_samples=30, max_views=5, seed=3, pairs=fpc.Pairs("other", class_weights=W[:K, :K], balanced=True),
            memory=fpc.MemoryBank(K, D, 4, 4).to(device),
        ).to(device).eval()  # fmt: skip
        weights = torch.rand(labels.shape, device=device)
        same_as_eager(lambda x: contrast(x, labels, logits, weights), embeddings, backend=compiler)


def test_gather_normalize(backend: Backend) -> None:
    index = torch.tensor([3, 0, -1, 100, 3], device=backend.device)
    x = images(backend.device)[0]
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = x.detach().contiguous(memory_format=layout).requires_grad_()
        same_as_eager(lambda x: functional.gather_normalize(x, index).square()[:, 0].sum(), leaf)


def test_select_anchors(backend: Backend) -> None:
    _, labels, logits = images(backend.device)
    seed = torch.tensor(3, device=backend.device)

    def select(labels: Tensor, predictions: Tensor, seed: Tensor) -> functional.SelectedAnchors:
        return functional.select_anchors(labels, predictions, seed=seed, num_classes=K, **SELECTION)

    expected = select(labels, logits, seed)
    assert expected.count > 5
    for predictions in (logits, logits.argmax(1)):
        result = compiled(select)(labels, predictions, seed)
        assert isinstance(result, functional.SelectedAnchors)
        for actual, wanted in zip(result, expected, strict=True):
            assert torch.equal(actual, wanted)


def test_pixel_contrast(backend: Backend) -> None:
    same_as_eager(lambda *maps: functional.pixel_contrast(*maps, **SELECTION), *images(backend.device))


@pytest.mark.parametrize("code_generator", ["aot_eager", "inductor"])
def test_pixel_contrast_loss_draws_what_eager_draws(code_generator: str, backend: Backend) -> None:
    maps = images(backend.device)
    loss = fpc.PixelContrastLoss(**SELECTION).to(backend.device)
    torch.manual_seed(3)
    expected = [with_gradients(loss, *maps) for _ in range(3)]
    torch.manual_seed(3)
    step = compiled(loss, backend=code_generator)
    for wanted in expected:
        for x, y in zip(with_gradients(step, *maps), wanted, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-7)
    assert len({float(wanted[0]) for wanted in expected}) == 3


@pytest.mark.parametrize("module", [fpc.SupConLoss, fpc.InfoNCELoss])
def test_row_losses(module: Any, backend: Backend) -> None:
    y = torch.arange(20, device=backend.device) % 4
    same_as_eager(lambda x: module()(x, y), torch.randn(20, 8, device=backend.device, requires_grad=True))


def test_a_network_trains_in_one_graph(backend: Backend) -> None:
    """The loss behind a layer, in bf16 autocast, with the cross-entropy beside it."""
    x, labels, logits = images(backend.device)
    layer = torch.nn.Conv2d(D, D, 1, device=backend.device)
    contrast = fpc.PixelContrastLoss(**SELECTION).to(backend.device)
    small = labels[:, :: labels.shape[1] // h, : 2 * w : 2][:, :h]

    def step(x: Tensor) -> Tensor:
        with torch.autocast(backend.device, torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(logits + layer(x)[:, :K], small)
            return loss + 0.1 * contrast(layer(x), labels, logits)

    torch.manual_seed(3)
    loss = step(x.detach())
    loss.backward()
    expected = layer.weight.grad
    layer.weight.grad = None
    torch.manual_seed(3)
    compiled(step)(x.detach()).backward()
    torch.testing.assert_close(layer.weight.grad, expected, rtol=0.05, atol=1e-3)


def test_one_graph_for_all_sizes(backend: Backend) -> None:
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def loss(*maps: Tensor) -> Tensor:
        return functional.pixel_contrast(*maps, **SELECTION)

    step = torch.compile(loss, fullgraph=True, dynamic=True, backend=counter)
    graphs = 0
    for sizes in ((2, 9, 10), (3, 11, 14), (4, 21, 6))[: 2 if define.INTERPRETING else 3]:
        maps = images(backend.device, *sizes)
        for x, y in zip(with_gradients(step, *maps), with_gradients(loss, *maps), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-7)
        graphs = graphs or counter.frame_count  # those of the first size
        assert counter.frame_count == graphs


def test_one_graph_for_all_numbers_of_rows(backend: Backend) -> None:
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    step = torch.compile(functional.info_nce, fullgraph=True, dynamic=True, backend=counter)
    graphs = 0
    widths = (16, 16, 16) if backend.name == "triton" else (8, 16, 5)  # Triton's kernels are made for a width
    for N, D in zip((20, 33, 50), widths, strict=True):
        x, y = torch.randn(N, D, device=backend.device, requires_grad=True), torch.arange(N, device=backend.device) % 4
        torch.testing.assert_close(with_gradients(step, x, y), with_gradients(functional.info_nce, x, y))
        graphs = graphs or counter.frame_count  # those of the first size
        assert counter.frame_count == graphs


def operators_run(function: Callable[[], Any]) -> set[str]:
    """The names of this library's operators that run, ``namespace::operator``, once all is compiled."""
    function()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    return {event.key for event in profile.key_averages() if event.key.startswith("fastpixcon_")}


@pytest.mark.parametrize("where", ["inside", "outside", "argument"])
def test_backend_switch(where: str, operators: Backend) -> None:
    """The switch works around a compiled function, in it, and as an argument; a change compiles anew."""
    operators.op("info_nce")
    x = torch.randn(20, 8, device=operators.device, requires_grad=True)
    y = torch.arange(20, device=operators.device) % 4

    def loss(x: Tensor) -> Tensor:
        if where == "inside":
            with fpc.backend(operators.name):
                return functional.info_nce(x, y)
        return functional.info_nce(x, y, backend=operators.name if where == "argument" else "auto")

    def both(name: str) -> set[str]:
        if name == "triton" and not define.INTERPRETING:
            return set()  # the graph has its kernels instead
        at_once = name != "reference"
        run = ["info_nce_at_once"] if at_once else ["info_nce_mean", "info_nce_backward"]
        return {f"fastpixcon_{name}::{operator}" for operator in run}

    step = compiled(loss)
    if where == "outside":
        with fpc.backend("reference"):
            assert operators_run(lambda: step(x).backward()) == both("reference")
        with fpc.backend(operators.name):
            assert operators_run(lambda: step(x).backward()) == both(operators.name)
        return
    with fpc.backend("reference"):
        assert operators_run(lambda: step(x).backward()) == both(operators.name)
        assert fpc.ops.backends._default == "reference"


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_loss_with_memory_and_mining(compiler: str, complete_backend: Backend) -> None:
    """Over several steps: the bank fills, and a backward keeps the pairs of its forward."""

    def loss() -> fpc.PixelContrastLoss:
        torch.manual_seed(1)
        bank = fpc.MemoryBank(K, D, pixel_size=20, region_size=5, pixels_per_image=3)
        mining = fpc.Mining(keep=(5, 9), fraction=0.5)
        return fpc.PixelContrastLoss(memory=bank, mining=mining, **SELECTION).to(complete_backend.device)

    eager, other = loss(), loss()
    traced = compiled(other, backend=compiler)
    for step in range(3):
        arguments = images(complete_backend.device)
        torch.manual_seed(step)
        expected = with_gradients(eager, *arguments)
        torch.manual_seed(step)
        actual = with_gradients(traced, *arguments)
        for x, y in zip(actual, expected, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-7)
    for (name, x), y in zip(eager.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, msg=name)
