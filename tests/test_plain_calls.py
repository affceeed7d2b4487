"""Plain calls go past the dispatcher; whoever looks at calls still sees them, and results are the same."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from harness.tested_backends import Backend
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastpixcon as fpc
from fastpixcon.functional import gather_normalize, info_nce, memory_enqueue_, select_anchors
from fastpixcon.ops import plain
from fastpixcon.ops.plain import constant, is_plain


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace.startswith("fastpixcon_"):
            self.seen.append(func._opname)
        return func(*args, **(kwargs or {}))


class Passing(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Marked(Tensor):
    pass


def inputs(device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(2, 8, 6, 7, generator=generator).to(device)
    return embeddings, torch.arange(84).view(2, 6, 7).to(device) % 3, torch.arange(30).to(device)


def step(embeddings: Tensor, labels: Tensor, index: Tensor) -> list[Tensor]:
    """Of every operator of a step what it returns, and gradients."""
    x = embeddings.detach().requires_grad_()
    tau = torch.tensor(0.2, device=x.device, requires_grad=True)
    anchors = select_anchors(labels, labels, num_classes=3, max_samples=9, max_views=2)
    rows = gather_normalize(x, index)
    loss = info_nce(rows, index % 4, temperature=tau, weights=torch.ones_like(rows[:, 0]))
    loss = loss + info_nce(rows[:12], index[:12] % 3, rows[12:], index[12:] % 3, reduction="none").sum()
    return [*anchors, loss.detach(), *torch.autograd.grad(loss, (x, tau))]


def test_with_a_mode_and_without_the_same_bits(operators: Backend) -> None:
    operators.op("info_nce")
    given = inputs(operators.device)
    with fpc.backend(operators.name):
        results = step(*given)
        with Recorder() as recorder:
            expected = step(*given)
    for actual, wanted in zip(results, expected, strict=True):
        assert torch.equal(actual, wanted)
    at_once = operators.name != "reference"
    names = {"select_anchors", "gather_normalize", "info_nce", "info_nce_backward"}
    names |= {"info_nce_at_once" if at_once else "info_nce_mean"}
    assert names | {"gather_normalize_backward"} <= {*recorder.seen}


def test_a_plain_call_does_not_dispatch_anew(operators: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a mode it does: the test sees the difference."""
    operators.op("info_nce")

    def refuse(*_: Any) -> Any:
        raise AssertionError("dispatched anew")

    monkeypatch.setattr(torch._ops.OpOverload, "redispatch", refuse)
    with fpc.backend(operators.name):
        step(*inputs(operators.device))
        with torch.no_grad():
            info_nce(*(x[:4] for x in (torch.randn(4, 3, device=operators.device), torch.zeros(4, dtype=torch.int64))))
        with Recorder(), pytest.raises(AssertionError, match="dispatched anew"):
            step(*inputs(operators.device))


@contextmanager
def within_dual_level() -> Iterator[None]:
    with forward_ad.dual_level():
        yield


PLAIN = {"nothing": nullcontext, "no_grad": torch.no_grad, "inference": torch.inference_mode}
SEEN = {"dispatch mode": Recorder, "function mode": Passing, "fake": FakeTensorMode, "forward mode": within_dual_level}


@pytest.mark.parametrize("name", [*PLAIN, *SEEN])
def test_which_calls_are_plain(name: str) -> None:
    x = torch.ones(3, requires_grad=True)
    context: Callable[[], AbstractContextManager[Any]] = {**PLAIN, **SEEN}[name]
    with context():
        assert is_plain([x, None, 3, "raw"]) == (name in PLAIN)
    with torch.autocast("cpu"):
        assert is_plain([x])


def test_which_tensors_are_plain() -> None:
    with FakeTensorMode():
        fake = torch.ones(3)
    negative = torch.ones(3, dtype=torch.complex64).conj().imag
    others = [fake, torch.ones(3, device="meta"), torch.ones(3).as_subclass(Marked), negative]
    assert negative.is_neg()
    for x in others:
        assert not is_plain([torch.ones(3), x]), x
    assert is_plain([torch.nn.Parameter(torch.ones(3))])


def test_under_transforms_nothing_is_plain() -> None:
    answers = []

    def ask(x: Tensor) -> Tensor:
        answers.append(is_plain([x]))
        return x.sum()

    torch.func.grad(ask)(torch.ones(3))
    torch.vmap(ask)(torch.ones(2, 3))
    torch.compile(ask, backend="eager", fullgraph=True)(torch.ones(3))
    torch.fx.experimental.proxy_tensor.make_fx(ask)(torch.ones(3))
    assert answers == [False] * len(answers)
    assert len(answers) >= 3


def test_a_constant_is_made_once() -> None:
    like = torch.ones(2)
    with torch.inference_mode():
        first = constant(0.125, torch.float32, like)
    assert not first.is_inference()
    assert constant(0.125, torch.float32, like) is first
    assert constant(0.125, torch.float64, like) is not first
    with FakeTensorMode():
        assert type(constant(0.125, torch.float32, like)) is not Tensor
    for value in range(3 * plain.MOST_CONSTANTS):
        constant(float(value), torch.float32, like)
    assert len(plain.CONSTANTS) <= plain.MOST_CONSTANTS


def test_a_temperature_seen_first_in_inference_mode_may_train() -> None:
    x = torch.randn(6, 4, requires_grad=True)
    with torch.inference_mode():
        info_nce(x, torch.arange(6) % 2, temperature=0.03125)
    info_nce(x, torch.arange(6) % 2, temperature=0.03125).backward()
    assert x.grad is not None


def test_autograd_knows_what_is_written_in_place(operators: Backend) -> None:
    """Past the dispatcher, too, which native operators do not go."""
    operators.op("memory_enqueue_")
    device = operators.device
    rows, labels = torch.randn(6, 4, device=device), torch.arange(6, dtype=torch.int32, device=device) % 2
    results = []
    for mode in (nullcontext(), Recorder()):
        bank, of_bank = torch.zeros(2, 9, 4, device=device), torch.full((2, 9), -1, dtype=torch.int32, device=device)
        written = torch.zeros(2, 2, dtype=torch.int64, device=device)
        versions = [x._version for x in (bank, of_bank, written)]
        with mode, fpc.backend(operators.name):
            memory_enqueue_(bank, of_bank, written, 5, rows, labels, rows[:2], labels[:2])
        moved = [x._version > v for x, v in zip((bank, of_bank, written), versions, strict=True)]
        results.append((bank, of_bank, written, moved))
    (*first, of_plain), (*second, _) = results
    for x, y in zip(first, second, strict=True):
        assert torch.equal(x, y)
    assert operators.name == "native" or all(of_plain)
    assert of_bank.eq(-1).sum() < 18
