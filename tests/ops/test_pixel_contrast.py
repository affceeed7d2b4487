"""What pixel_contrast means: the loss of a map in one call, the bits of its steps; which losses take it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from harness.tested_backends import Backend
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import fastpixcon as fpc
import fastpixcon.functional.maps
import fastpixcon.functional.rows
from fastpixcon.functional import pixel_contrast
from fastpixcon.testing import PixelContrastCase

K, D = 5, 12


def maps(device: str | torch.device, sizes: tuple[int, ...] = (9, 11), dtype: torch.dtype = torch.float32) -> list[Any]:
    """Embeddings, labels, logits."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, D, *sizes, generator=generator).to(device, dtype).requires_grad_()
    labels = torch.randint(K, (2, *sizes), generator=generator).to(device)
    logits = torch.randn(2, K, *sizes, generator=generator).to(device)
    return [x, labels, logits]


def step(x: Tensor, labels: Tensor, logits: Tensor, **options: Any) -> list[Tensor]:
    tau = options.get("temperature")
    leaves = (x, tau) if isinstance(tau, Tensor) and tau.requires_grad else (x,)
    loss = pixel_contrast(x, labels, logits, **{"max_samples": 60, "max_views": 9, "min_pixels": 1} | options)
    return [loss, *torch.autograd.grad(loss * 3 + loss.square(), leaves)]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"denominator": "all", "base_temperature": None, "temperature": 0.02},
    {"denominator": "decoupled", "temperature": 0.3},
    {"temperature": torch.tensor(0.2, requires_grad=True)},
    {"temperature": torch.tensor([0.2]), "ignore_index": (0, 255)},
    {"seed": torch.tensor(9), "min_pixels": None},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options))
def test_the_bits_of_its_steps(options: dict[str, Any], backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the loss and its gradients, also of a loss that is used twice."""
    options = {
        key: x.detach().to(backend.device).requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x
        for key, x in options.items()
    }
    given = maps(backend.device)
    at_once = step(*given, **options)
    monkeypatch.setattr(fastpixcon.functional.maps, "takes_one_call", lambda *_: False)
    for x, y in zip(at_once, step(*given, **options), strict=True):
        assert x.dtype == y.dtype
        assert torch.equal(x, y)


@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [((99,), torch.float32), ((9, 11), torch.bfloat16), ((9, 11), torch.float16), ((3, 5, 7), torch.float32)],
    ids=str,
)
def test_maps_of_any_rank_and_dtype(
    sizes: tuple[int, ...], dtype: torch.dtype, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, labels, logits = maps(backend.device, sizes, dtype)
    layouts = [x] if len(sizes) == 3 else [x, x.detach().mT.contiguous().mT.requires_grad_()]
    at_once = [step(each, labels, logits) for each in layouts]
    monkeypatch.setattr(fastpixcon.functional.maps, "takes_one_call", lambda *_: False)
    for each, results in zip(layouts, at_once, strict=True):
        for a, b in zip(results, step(each, labels, logits), strict=True):
            assert (a.dtype, a.stride()) == (b.dtype, b.stride())
            assert torch.equal(a, b)


def test_the_module_keeps_the_same_facts(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    given = maps(backend.device)
    loss = fpc.PixelContrastLoss(max_samples=50, max_views=9, min_pixels=2, num_classes=K, seed=4).to(backend.device)
    loss(*given)
    facts = loss.last
    monkeypatch.setattr(fastpixcon.functional.maps, "takes_one_call", lambda *_: False)
    loss(*given)
    for x, y in zip(facts, loss.last, strict=True):
        assert x is y is None or torch.equal(x, y)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Operators of losses of maps, as they are called."""
    names: list[str] = []
    for module in (fastpixcon.functional.maps, fastpixcon.functional.rows):
        call = module.call

        def record(operator: str, *arguments: Any, call: Callable[..., Any] = call) -> Any:
            names.append(operator)
            return call(operator, *arguments)

        monkeypatch.setattr(module, "call", record)
    return names


ONE: dict[str, dict[str, Any]] = {
    "nothing": {},
    "batch alone": {"contrast_with": "batch"},
    "learned temperature": {"temperature": torch.tensor(0.2, requires_grad=True)},
    "no rule": {"pairs": fpc.Pairs()},
}
STEPS: dict[str, dict[str, Any]] = {
    "weights": {"weights": torch.ones(2, 9, 11)},
    "class weights": {"pairs": fpc.Pairs(class_weights=torch.ones(K, K))},
    "balanced": {"pairs": fpc.Pairs(balanced=True)},
    "other images": {"pairs": fpc.Pairs(positives="other")},
    "mining": {"mining": fpc.Mining("hardest", "hardest", 0.5, (4, 4))},
    "many anchors": {"max_samples": 1025},
    "reference": {"backend": "reference"},
}


@pytest.mark.parametrize("name", [*ONE, *STEPS])
def test_which_losses_are_one_call(name: str, called: list[str]) -> None:
    pytest.importorskip("fastpixcon._C")
    step(*maps("cpu"), **{**ONE, **STEPS}[name])
    assert (called == ["pixel_contrast"]) == (name in ONE), called


AROUND: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "nothing": nullcontext,
    "autocast of the same dtype": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast of another one": lambda: torch.autocast("cpu", torch.float16),
    "no_grad": torch.no_grad,
}


@pytest.mark.parametrize("name", AROUND)
def test_around_which_contexts(name: str, called: list[str]) -> None:
    pytest.importorskip("fastpixcon._C")
    x, labels, logits = maps("cpu", dtype=torch.bfloat16)
    with AROUND[name]():
        pixel_contrast(x, labels, logits)
    assert (called == ["pixel_contrast"]) == (name in list(AROUND)[:2]), called
    called.clear()
    pixel_contrast(x.detach(), labels, logits, temperature=torch.tensor(0.2, requires_grad=True))
    torch.func.grad(lambda x: pixel_contrast(x, labels, logits))(x.detach())
    assert "pixel_contrast" not in called


def test_anchors_without_a_positive_leave_zeros(backend: Backend) -> None:
    x, labels, logits = maps(backend.device)
    loss = pixel_contrast(x, torch.full_like(labels, 255), logits)
    (d,) = torch.autograd.grad(loss, x)
    assert float(loss.detach()) == 0
    assert not d.any()
    empty = torch.empty(0, D, 4, 4, device=backend.device, requires_grad=True)
    loss = pixel_contrast(empty, labels[:0, :4, :4], logits[:0, :, :4, :4])
    assert float(loss.detach()) == 0
    assert torch.autograd.grad(loss, empty)[0].shape == empty.shape


def test_a_backward_again_gives_the_same(backend: Backend) -> None:
    x, labels, logits = maps(backend.device)
    loss = pixel_contrast(x, labels, logits, max_samples=40, max_views=5)
    loss.backward(retain_graph=True)
    assert x.grad is not None
    first = x.grad.clone()
    for times in (2, 3):
        loss.backward(retain_graph=True)
        torch.testing.assert_close(x.grad, times * first)


def test_under_a_checkpoint_the_same(backend: Backend) -> None:
    given = maps(backend.device)
    for seed in (0, 5):

        def loss(*given: Tensor, seed: int = seed) -> Tensor:
            return pixel_contrast(*given, max_views=5, seed=seed)

        (expected,) = torch.autograd.grad(loss(*given), given[0])
        (actual,) = torch.autograd.grad(checkpoint(loss, *given, use_reentrant=False), given[0])
        assert torch.equal(actual, expected)


def test_second_derivatives_raise(backend: Backend) -> None:
    x, labels, logits = maps(backend.device)
    loss = pixel_contrast(x, labels, logits, max_views=5)
    (d,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.grad(d.square().sum() + x.sum(), x)


def test_nothing_but_its_value_has_a_derivative(operators: Backend) -> None:
    op = operators.op("pixel_contrast")
    arguments = PixelContrastCase(8).arguments(operators.device)
    arguments[0].requires_grad_()
    value, *others = op(*arguments)
    assert value.requires_grad
    assert not any(x.requires_grad for x in others)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_samples": 0}, "max_samples: got 0"),
        ({"temperature": -1.0}, "temperature: got -1.0"),
        ({"denominator": "some"}, "denominator: got 'some'"),
        ({"contrast_with": "memory"}, "contrast_with: got 'memory' without a memory"),
        ({"across": "star"}, "across: got 'star'"),
        ({"num_classes": K + 1}, "predictions: got logits of 5 classes, want 6"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_is_wrong_is_said_as_by_its_steps(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        step(*maps("cpu"), **options)
    x, labels, logits = maps("cpu")
    labels[0, 0, 0] = K
    with pytest.raises(ValueError, match=r"labels: got label 5, want labels in \[0, 5\) or ignore_index"):
        step(x, labels, logits)
