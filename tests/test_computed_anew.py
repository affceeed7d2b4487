"""A forward that is computed anew for its backward: the same anchors, the same pairs, the same bank, nothing twice."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from harness.tested_backends import Backend
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import fastpixcon as fpc

K, D = 4, 16
MODES = ("reentrant", "not reentrant")


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def maps(device: str, step: int = 0, B: int = 2, size: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    embeddings = torch.randn(B, D, size, size, generator=generator)
    labels = torch.randint(K, (B, size, size), generator=generator)
    logits = torch.randn(B, K, size, size, generator=generator)
    return embeddings.to(device), labels.to(device), logits.to(device)


def loss_module(bank: bool, mining: bool, device: str) -> fpc.PixelContrastLoss:
    memory = fpc.MemoryBank(K, D, pixel_size=30, region_size=10, pixels_per_image=3) if bank else None
    mined = fpc.Mining(keep=(4, 9), fraction=0.5) if mining else None
    return fpc.PixelContrastLoss(max_samples=48, max_views=6, memory=memory, mining=mined).to(device)


def trained(
    mode: str, bank: bool, mining: bool, device: str, compiled: str | None = None, steps: int = 3
) -> tuple[list[Tensor], fpc.PixelContrastLoss]:
    """Losses and gradients of some steps, and the loss with the bank that they left."""
    torch.manual_seed(5)
    contrast: Any = loss_module(bank, mining, device)
    called = torch.compile(contrast, backend="aot_eager", fullgraph=True) if compiled == "inside" else contrast

    def step(x: Tensor, y: Tensor, p: Tensor) -> Tensor:
        if mode == "once":
            return called(x, y, p)
        return checkpoint(called, x, y, p, use_reentrant=mode == "reentrant")

    run = torch.compile(step, backend="aot_eager", fullgraph=True) if compiled == "outside" else step
    results = []
    for number in range(steps):
        x, y, p = maps(device, number)
        x.requires_grad_()
        loss = run(x, y, p)
        (gradient,) = torch.autograd.grad(loss, x) if mode != "reentrant" else _backward(loss, x)
        results += [loss.detach(), gradient, torch.rand((), device=device)]  # what follows draws the same, too
    return results, contrast


def _backward(loss: Tensor, x: Tensor) -> tuple[Tensor]:
    loss.backward()
    assert x.grad is not None
    return (x.grad,)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mining", [False, True], ids=["all", "mined"])
@pytest.mark.parametrize("bank", [False, True], ids=["batch", "bank"])
@pytest.mark.parametrize("compiled", [None, "inside", "outside"])
def test_as_if_it_had_run_once(
    compiled: str | None, bank: bool, mining: bool, mode: str, complete_backend: Backend
) -> None:
    if compiled is not None and complete_backend.name != "native":
        pytest.skip("torch.compile is tried on one backend")
    wanted, expected = trained("once", bank, mining, complete_backend.device)
    found, contrast = trained(mode, bank, mining, complete_backend.device, compiled)
    for actual, value in zip(found, wanted, strict=True):
        torch.testing.assert_close(actual, value, rtol=1e-5, atol=1e-7)
    assert wanted[1].norm() > 0
    for (name, actual), value in zip(contrast.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(actual, value), name
    for name, value in expected.last._asdict().items():
        found_value = getattr(contrast.last, name)
        assert torch.equal(found_value[:K] if name.startswith("class_") else found_value, value), name


@pytest.mark.parametrize("mode", MODES)
def test_inductor_draws_what_eager_draws(mode: str) -> None:
    wanted, _ = trained("once", True, False, "cpu", steps=2)
    torch.manual_seed(5)
    contrast = loss_module(True, False, "cpu")
    step = torch.compile(lambda *x: checkpoint(contrast, *x, use_reentrant=mode == "reentrant"), fullgraph=True)
    for number in range(2):
        x, y, p = maps("cpu", number)
        loss = step(x.requires_grad_(), y, p)
        _backward(loss, x)
        torch.testing.assert_close(loss, wanted[3 * number], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(x.grad, wanted[3 * number + 1], rtol=1e-5, atol=1e-7)
        torch.rand(())


@pytest.mark.parametrize("mode", MODES)
def test_rows_for_the_bank_that_are_added_by_hand(mode: str) -> None:
    """``MemoryBank.enqueue`` in a checkpointed forward adds its batch once; what is drawn after it stays the same."""

    def states(run: Callable[..., Tensor]) -> list[Tensor]:
        torch.manual_seed(1)
        bank = fpc.MemoryBank(K, D, 30, 10)

        def forward(x: Tensor, y: Tensor) -> Tensor:
            x = x.sin()
            bank.enqueue(x, y)
            return torch.nn.functional.dropout(x).square().sum()

        x, y, _ = maps("cpu")
        loss = run(forward, x.requires_grad_(), y)
        loss.backward()
        assert x.grad is not None
        return [loss.detach(), x.grad, *bank.state_dict().values()]

    wanted = states(lambda f, *x: f(*x))
    found = states(lambda f, *x: checkpoint(f, *x, use_reentrant=mode == "reentrant"))
    for actual, value in zip(found, wanted, strict=True):
        assert torch.equal(actual, value)
    assert wanted[4].sum() > 0


@pytest.mark.parametrize("mode", MODES)
def test_a_bank_that_has_moved_on_is_an_error(mode: str) -> None:
    """Two calls before one backward: the first could not be computed anew with the bank that it met."""
    contrast = loss_module(True, False, "cpu")
    x, y, p = maps("cpu")
    for _ in range(2):  # the bank is not empty
        contrast(x, y, p)
    x.requires_grad_()
    first, second = (checkpoint(contrast, x, y, p, use_reentrant=mode == "reentrant") for _ in range(2))
    with pytest.raises(RuntimeError, match="memory: a forward is computed anew"):
        (first + second).backward()


def test_several_calls_before_a_backward_without_checkpoint() -> None:
    contrast = loss_module(True, False, "cpu")
    x, y, p = maps("cpu")
    x.requires_grad_()
    losses = [contrast(x, y, p) for _ in range(3)]
    sum(losses).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert contrast.memory is not None
    contrast.memory.flush()
    assert contrast.memory.written[1].sum() == 3 * 2 * K


def test_random_mining_of_the_adapter() -> None:
    adapter = pytest.importorskip("fastpixcon.adapters.pytorch_metric_learning")

    def gradient(run: Callable[..., Tensor]) -> Tensor:
        torch.manual_seed(2)
        loss = adapter.InfoNCELoss(mining=fpc.Mining("random", "random", keep=(2, 5)))
        x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        run(loss, x, torch.arange(40) % 4).backward()
        assert x.grad is not None
        return x.grad

    wanted = gradient(lambda loss, *x: loss(*x))
    for mode in MODES:
        found = gradient(lambda loss, *x, m=mode: checkpoint(loss, *x, use_reentrant=m == "reentrant"))
        assert torch.equal(found, wanted)


def test_a_seed_that_is_given_stays() -> None:
    x, y, p = maps("cpu")
    for seed in (7, torch.tensor(7)):
        contrast = fpc.PixelContrastLoss(max_samples=48, max_views=6, seed=seed)
        wanted = fpc.functional.pixel_contrast(x, y, p, max_samples=48, max_views=6, seed=7)
        assert [contrast(x, y, p).item() for _ in range(2)] == [wanted.item()] * 2
