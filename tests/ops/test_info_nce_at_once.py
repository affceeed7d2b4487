"""What info_nce_at_once means: the mean of the losses of info_nce and its gradients; what a public loss makes of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from harness.tested_backends import Backend
from torch import Tensor

import fastpixcon as fpc
import fastpixcon.functional.rows
from fastpixcon.functional import info_nce
from fastpixcon.testing import InfoNCEAtOnceCase
from fastpixcon.values import Rows, Statistics


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("M", [None, 70])
@pytest.mark.parametrize("rule", ["", "everything"])
@pytest.mark.parametrize("denominator", ["negatives", "all", "decoupled"])
def test_it_is_forward_and_backward(denominator: str, rule: str, M: int | None, mean: bool, operators: Backend) -> None:
    case = InfoNCEAtOnceCase(40, 16, M=M, denominator=denominator, rule_of_pairs=rule)
    given = *case.sets(operators.device), case.rule(operators.device), case.rows
    w = case.anchor_weights(operators.device)
    assert w is not None
    value, mass, *gradients = operators.of_values("info_nce_at_once")(*given, w, 3.0, mean, [True] * 3)
    loss, *found = operators.of_values("info_nce")(*given)
    share = 3.0 / w[found[-1] > 0].sum() if mean else torch.full_like(value, 3.0)
    expected = operators.of_values("info_nce_backward")(Statistics(share * w, *found), *given, [True] * 3)
    torch.testing.assert_close(value, (share * w * loss).sum())
    torch.testing.assert_close(mass, found[-1])
    for x, y in zip(gradients, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [(0, None), (0, 5), (5, 0)])
def test_of_no_rows(rows: tuple[int, int | None], operators: Backend) -> None:
    N, M = rows
    value, mass, d_anchors, d_contrast, d_temperature = operators.op("info_nce_at_once")(
        *InfoNCEAtOnceCase(N, 8, M=M).arguments(operators.device)
    )
    assert float(value) == float(d_temperature) == 0
    assert (mass.shape, d_anchors.shape) == ((N,), (N, 8))
    assert not d_anchors.any()
    assert not d_contrast.any()
    assert d_contrast.shape == ((0,) if M is None else (M, 8))


@pytest.mark.parametrize("mask", [(a, c, t) for a in (False, True) for c in (False, True) for t in (False, True)])
def test_what_is_asked_for_does_not_depend_on_what_else_is(mask: tuple[bool, ...], operators: Backend) -> None:
    *arguments, everything = InfoNCEAtOnceCase(50, 19, M=21).arguments(operators.device)
    op = operators.op("info_nce_at_once")
    complete = op(*arguments, everything)
    for wanted, x, y in zip((True, True, *mask), complete, op(*arguments, list(mask)), strict=True):
        if wanted:
            torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_many_threads_and_columns_take_two_steps(
    dtype: torch.dtype, operators: Backend, threads: Callable[[int], None]
) -> None:
    """Where each thread's panel would be small."""
    arguments = InfoNCEAtOnceCase(70, 8, M=8000, dtype=dtype).arguments(operators.device)
    results = []
    for number in (1, 64):
        threads(number)
        results.append(operators.op("info_nce_at_once")(*arguments))
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_tiles_that_would_take_too_much_are_not_kept(operators: Backend, threads: Callable[[int], None]) -> None:
    """Of self contrast, for many threads, or for more rows."""
    arguments = InfoNCEAtOnceCase(1000, 8, classes=3).arguments(operators.device)
    results = []
    for number in (1, 64):
        threads(number)
        results.append(operators.op("info_nce_at_once")(*arguments))
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Operators of losses, as they are called."""
    called: list[str] = []
    call = fastpixcon.functional.rows.call

    def record(operator: str, *arguments: Any) -> Any:
        called.append(operator)
        return call(operator, *arguments)

    monkeypatch.setattr(fastpixcon.functional.rows, "call", record)
    return called


def sets(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, c = torch.randn(30, 8).to(dtype), torch.randn(50, 8).to(dtype)
    return x.requires_grad_(), torch.arange(30) % 4, c.requires_grad_(), torch.arange(50) % 4


def test_where_a_forward_makes_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, of separate rows and of few against themselves, where somebody wants them and all losses weigh what
    is known; on GPUs of few rows."""
    pytest.importorskip("fastpixcon._C")
    called = recorded(monkeypatch)
    x, y, c, z = sets()
    many, labels = torch.randn(1025, 4, requires_grad=True), torch.arange(1025) % 4
    plain: list[Callable[[], Tensor]] = [
        lambda: info_nce(many, labels),
        lambda: info_nce(x, y, reduction="none"),
        lambda: info_nce(x, y, c, z, reduction="none"),
        lambda: info_nce(x.detach(), y, c.detach(), z),
        lambda: info_nce(x, y, c, z, backend="reference"),
        lambda: torch.func.grad(lambda q: info_nce(q, y, c.detach(), z))(x.detach()),
    ]
    for call in plain:
        call()
    with torch.no_grad():
        info_nce(x, y, c, z)
    assert called == ["info_nce_mean", "info_nce", "info_nce", *["info_nce_mean"] * 4]
    called.clear()
    tau = torch.tensor(0.2, requires_grad=True)
    for options in ({}, {"reduction": "sum"}, {"weights": torch.rand(30)}, {"temperature": tau}):
        info_nce(x, y, c, z, **options)
    info_nce(x, y, c.detach(), z)
    info_nce(x.detach(), y, c, z)
    info_nce(x, y)
    info_nce(many[:1024], labels[:1024], temperature=tau)
    assert called == ["info_nce_at_once"] * 8


@pytest.mark.parametrize(
    ("N", "M", "made"), [(8192, None, True), (8193, None, False), (9, 8192, True), (9, 8193, False)]
)
def test_on_gpus_few_rows_do(N: int, M: int | None, made: bool) -> None:
    """Also of separate rows, whose products are computed twice there."""
    with torch._subclasses.FakeTensorMode():
        rows = [Rows(torch.empty(n, 8, device="cuda"), torch.empty(n, device="cuda")) for n in (N, M) if n is not None]
        assert fastpixcon.functional.rows.at_once(*rows, *[None] * (M is None), [True], "triton") is made


OPTIONS: list[dict[str, Any]] = [
    {},
    {"reduction": "sum"},
    {"weights": torch.arange(30) / 30, "denominator": "all"},
    {"base_temperature": 0.07, "temperature": 0.3, "normalize": False},
    {"pairs": fpc.Pairs(class_weights=torch.rand(4, 4), balanced=True), "denominator": "decoupled"},
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options))
@pytest.mark.parametrize("self_contrast", [False, True])
def test_the_loss_and_its_gradients_are_those_of_two_steps(
    self_contrast: bool, options: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also scaled, and of a loss that is used twice."""
    pytest.importorskip("fastpixcon._C")
    x, y, c, z = sets(dtype)
    others, leaves = ((), (x,)) if self_contrast else ((c, z), (x, c))
    tau = torch.tensor(options.get("temperature", 0.1), requires_grad=True)

    def step() -> list[Tensor]:
        loss = info_nce(x, y, *others, **options | {"temperature": tau})
        return [loss, *torch.autograd.grad(loss * 3 + loss.square(), (*leaves, tau))]

    at_once = step()
    monkeypatch.setattr(fastpixcon.functional.rows, "at_once", lambda *_: False)
    eps = torch.finfo(dtype).eps
    for actual, expected in zip(at_once, step(), strict=True):
        assert actual.dtype == expected.dtype
        difference = (actual - expected).double().norm()  # one gradient may be what is left of large ones
        assert float(difference) <= 4 * max(eps, 1e-5) * float(expected.double().norm())


def test_a_backward_again_gives_the_same() -> None:
    """What autograd adds up in place is not what the forward has made."""
    pytest.importorskip("fastpixcon._C")
    x, y, c, z = sets()
    loss = info_nce(x, y, c, z)
    loss.backward(retain_graph=True)
    assert x.grad is not None
    first = x.grad.clone()
    for times in (2, 3, 4):
        loss.backward(retain_graph=True)
        torch.testing.assert_close(x.grad, times * first)
    x.grad.zero_()
    loss.backward()
    torch.testing.assert_close(x.grad, first, rtol=0, atol=0)


def test_under_a_scaler_small_gradients_of_float16_are_there() -> None:
    """They are made before the loss is scaled, in float32."""
    pytest.importorskip("fastpixcon._C")
    x, y, c, z = sets(torch.float16)
    loss = info_nce(x, y, c, z) * 1e-6
    (loss * 2.0**16).backward()
    assert x.grad is not None
    scaled = x.grad.float() / 2**16
    wide = x.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(info_nce(wide, y, c.detach().float(), z) * 1e-6, wide)
    assert float((scaled - expected).norm() / scaled.norm()) < 0.05


def test_a_compiled_loss_makes_them_too() -> None:
    pytest.importorskip("fastpixcon._C")
    x, y, c, z = sets()
    step = torch.compile(lambda x, c: info_nce(x, y, c, z), backend="aot_eager", fullgraph=True)
    actual = torch.autograd.grad(step(x, c), (x, c))
    for a, b in zip(actual, torch.autograd.grad(info_nce(x, y, c, z), (x, c)), strict=True):
        torch.testing.assert_close(a, b)
