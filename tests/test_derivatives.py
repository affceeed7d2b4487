"""First derivatives in reverse mode are right, by ``torch.func``, too; forward mode and second derivatives raise."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from harness.distributed_checks import derivatives_that_there_are_not, on_ranks
from harness.tested_backends import Backend
from torch import Tensor
from torch.autograd import forward_ad

import fastpixcon as fpc
from fastpixcon.ops import define

N, D, K = 12, 8, 3
Function = Callable[[Tensor], Tensor]


def losses(device: str) -> dict[str, Function]:
    """[12, 8] -> [], everything of the library that has a gradient."""
    y = (torch.arange(N) % K).to(device)
    c = torch.randn(7, D, device=device)
    bank = fpc.MemoryBank(K, D, 4, 4).to(device)
    rows = torch.nn.functional.normalize(torch.randn(N, D, device=device))
    bank.enqueue_rows(rows, y.int(), rows[:0], y[:0].int())
    info_nce = fpc.functional.info_nce
    options: dict[str, Any] = {"max_samples": N, "max_views": 4, "min_pixels": 1}
    contrast = fpc.PixelContrastLoss(num_classes=K, memory=bank, **options).to(device).eval()

    def on_map(loss: Callable[..., Tensor], **more: Any) -> Function:
        shape = (1, 3, 4)
        return lambda x: loss(x.T.reshape(1, D, 3, 4), y.view(shape), y.flip(0).view(shape), **more)

    return {
        "negatives": lambda x: info_nce(x, y),
        "all": lambda x: info_nce(x, y, denominator="all", reduction="none").sum(),
        "as they are": lambda x: info_nce(x, y, normalize=False),
        "separate": lambda x: info_nce(x, y, c, y[:7]),
        "contrast rows": lambda x: info_nce(c, y[:7], x, y),
        "temperature": lambda x: info_nce(c, y[:7], temperature=x.square().mean(), base_temperature=0.1),
        "memory": lambda x: info_nce(x, y, memory=bank),
        "memory alone": lambda x: info_nce(x, y, memory=bank, contrast_with="memory"),
        "mining": lambda x: info_nce(x, y, mining=fpc.Mining("hardest", "hardest", keep=(2, 3))),
        "temperature, memory": lambda x: info_nce(c, y[:7], temperature=x.square().mean(), memory=bank),
        "gather_normalize": lambda x: (
            fpc.functional.gather_normalize(x[:, :, None, None], torch.arange(N, device=x.device)).pow(3).sum()
        ),
        "pixel_contrast": on_map(fpc.functional.pixel_contrast, num_classes=K, **options),
        "PixelContrastLoss": on_map(contrast),
        "SupConLoss": lambda x: fpc.SupConLoss()(x, y),
        "InfoNCELoss": lambda x: fpc.InfoNCELoss()(x, y),
    }


NAMES = tuple(losses("cpu"))
HARD = ("negatives", "memory", "gather_normalize")  # one of each kind of node


def batched(f: Function) -> Function:
    return lambda x: torch.func.vmap(f, randomness="same")(torch.stack([x, x])).mean()


def dual(f: Function, x: Tensor, t: Tensor, grad: bool = True) -> Any:
    with forward_ad.dual_level(), torch.set_grad_enabled(grad):
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, t))).tangent


def penalty(f: Function, x: Tensor) -> Any:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(x), x, create_graph=True)
    (f(x) + gradient.square().sum()).backward()
    return x.grad


def weighted(f: Function, x: Tensor) -> Any:
    """By a weight of which only the gradient of x depends on it."""
    x, w = x.clone().requires_grad_(), torch.ones((), device=x.device, requires_grad=True)
    (gradient,) = torch.autograd.grad(w * f(x), x, create_graph=True)
    return torch.autograd.grad(gradient.square().sum(), w)


FORWARD: dict[str, Callable[[Function, Tensor, Tensor], Any]] = {
    "jvp": lambda f, x, t: torch.func.jvp(f, (x,), (t,)),
    "dual": dual,
    "dual without gradient": lambda f, x, t: dual(f, x, t, grad=False),
    "jacfwd": lambda f, x, t: torch.func.jacfwd(f)(x),
    "linearize": lambda f, x, t: torch.func.linearize(f, x)[1](t),
    "hessian": lambda f, x, t: torch.func.hessian(f)(x),
    "jvp of grad": lambda f, x, t: torch.func.jvp(torch.func.grad(f), (x,), (t,)),
}
SECOND: dict[str, Callable[[Function, Tensor, Tensor], Any]] = {
    "penalty": lambda f, x, t: penalty(f, x),
    "weight": lambda f, x, t: weighted(f, x),
    "hvp": lambda f, x, t: torch.autograd.functional.hvp(f, x, t),
    "vhp": lambda f, x, t: torch.autograd.functional.vhp(f, x, t),
    "hessian": lambda f, x, t: torch.autograd.functional.hessian(f, x),
    "grad of grad": lambda f, x, t: torch.func.grad(lambda z: (torch.func.grad(f)(z) * t).sum())(x),
    "vjp of grad": lambda f, x, t: torch.func.vjp(torch.func.grad(f), x)[1](t),
    "jacrev of jacrev": lambda f, x, t: torch.func.jacrev(torch.func.jacrev(f))(x),
}
FIRST: dict[str, Callable[[Function, Tensor], Tensor]] = {
    "grad": lambda f, x: torch.func.grad(f)(x),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](torch.ones((), device=x.device))[0],
    "jacrev": lambda f, x: torch.func.jacrev(f)(x),
    "create_graph": lambda f, x: torch.autograd.grad(f(z := x.clone().requires_grad_()), z, create_graph=True)[0],
    "jacobian": lambda f, x: torch.autograd.functional.jacobian(f, x, vectorize=True),
    "vmap of grad": lambda f, x: torch.func.vmap(torch.func.grad(f), randomness="same")(torch.stack([x + 1, x]))[1],
    "grad of vmap": lambda f, x: torch.func.grad(batched(f))(x),
}


def chosen(name: str, complete_backend: Backend) -> tuple[Function, Tensor]:
    if name not in HARD and complete_backend.name == "triton" and define.INTERPRETING:
        pytest.skip("the same nodes as of the others, slowly")
    return losses(complete_backend.device)[name], torch.randn(N, D, device=complete_backend.device)


@pytest.mark.parametrize("name", NAMES)
def test_forward_mode_raises(name: str, complete_backend: Backend) -> None:
    f, x = chosen(name, complete_backend)
    for attempt in FORWARD.values():
        with pytest.raises(
            NotImplementedError, match=f"(backend '{complete_backend.name}'|sets): forward mode .* not sup"
        ):
            attempt(f, x, torch.randn_like(x))


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives_raise(name: str, complete_backend: Backend) -> None:
    f, x = chosen(name, complete_backend)
    for attempt in SECOND.values():
        with pytest.raises(NotImplementedError, match=r"(backend '\w+'|sets): second derivatives .* are not supported"):
            attempt(f, x, torch.randn_like(x))


@pytest.mark.parametrize("name", NAMES)
def test_first_derivatives_of_any_kind(name: str, complete_backend: Backend) -> None:
    f, x = chosen(name, complete_backend)
    z = x.clone().requires_grad_()
    f(z).backward()
    assert z.grad is not None
    assert z.grad.norm() > 0.01
    for kind, first in FIRST.items():
        torch.testing.assert_close(first(f, x), z.grad, msg=lambda text, k=kind: f"{k}: {text}")


@pytest.mark.parametrize("name", NAMES)
def test_first_derivatives_are_numeric_ones(name: str) -> None:
    """In float64, where the reference computes."""
    x = torch.randn(N, D, dtype=torch.float64)
    torch.manual_seed(1)
    f = losses("cpu")[name]
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(1)
        f = losses("cpu")[name]
        t = torch.randn_like(x)
        numeric = (f(x + 1e-6 * t) - f(x - 1e-6 * t)) / 2e-6
        torch.testing.assert_close((torch.func.grad(f)(x) * t).sum(), numeric, rtol=1e-5, atol=1e-7)
    finally:
        torch.set_default_dtype(torch.float32)


def test_every_operator_raises(operators: Backend) -> None:
    """Also those that are steps, and have no gradient of their own."""
    if operators.is_executed or operators.device != "cpu" or (operators.name == "triton" and define.INTERPRETING):
        pytest.skip("the same Python everywhere")
    x, y = torch.randn(N, D), torch.arange(N) % K
    tau = torch.tensor(0.1)
    sums = operators.op("contrast_sums")
    arguments = (y, *[None] * 8, tau, "all", True, False, None, "any", "any", None, None, None, False)
    with pytest.raises(NotImplementedError, match=r"contrast_sums on backend .* it has no derivative of its own"):
        sums(x.clone().requires_grad_(), *arguments)[0].sum().backward()
    with pytest.raises(NotImplementedError, match=r"contrast_sums on backend .* forward mode"):
        torch.func.jvp(lambda z: sums(z, *arguments)[0], (x,), (x,))
    with torch.inference_mode():
        assert sums(x, *arguments)[0].shape == (N,)
    for (backend, name), overload in define.OVERLOADS.items():
        if backend == operators.name and not define.mutated(define.OPERATORS[name].schema):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(overload.name(), "Autograd"), name


def test_what_has_no_gradient_is_detached(complete_backend: Backend) -> None:
    """Rows of the memory bank, selected anchors: by intent, so that a step with them can be differentiated."""
    if complete_backend.name == "triton" and define.INTERPRETING:
        pytest.skip("the same Python everywhere")
    device = complete_backend.device
    x = torch.randn(1, D, 3, 4, device=device, requires_grad=True)
    y = (torch.arange(N, device=device) % K).view(1, 3, 4)
    pixels, _, regions, _ = fpc.functional.memory_rows(x, y, num_classes=K)
    assert not pixels.requires_grad
    assert not regions.requires_grad
    logits = torch.randn(1, K, 3, 4, device=device, requires_grad=True)
    assert not any(t.requires_grad for t in fpc.functional.select_anchors(y, logits, max_samples=8))
    bank = fpc.MemoryBank(K, D, 4, 4).to(device)
    rows = x.permute(0, 2, 3, 1).reshape(N, D)
    bank.enqueue_rows(rows, y.int().view(-1), rows[:0], y.int().view(-1)[:0])
    assert not bank.rows.requires_grad
    with forward_ad.dual_level():
        twice = forward_ad.make_dual(x.detach(), x.detach())
        assert forward_ad.unpack_dual(fpc.functional.memory_rows(twice, y, num_classes=K)[0]).tangent is None


def test_a_bank_that_wants_a_gradient_is_refused() -> None:
    y = torch.arange(N) % K
    bank = fpc.MemoryBank(K, D, 4, 4)
    bank.rows.requires_grad_()
    with pytest.raises(ValueError, match="memory: got a bank that requires a gradient, want one without"):
        fpc.functional.info_nce(torch.randn(N, D), y, memory=bank)
    more = (bank.labels, bank.written, 4, torch.randn(2, D), y[:2].int(), torch.randn(1, D), y[:1].int())
    with pytest.raises(ValueError, match="bank: got a bank that requires a gradient, want one without"):
        fpc.functional.memory_enqueue_(bank.rows, *more)


def test_contrast_rows_that_would_take_no_part_are_refused() -> None:
    y, bank = torch.arange(N) % K, fpc.MemoryBank(K, D, 4, 4)
    x = torch.randn(N, D)
    with pytest.raises(ValueError, match=re.escape("contrast: got rows with contrast_with='memory', want None")):
        fpc.functional.info_nce(x, y, x, y, memory=bank, contrast_with="memory")


@pytest.mark.parametrize("across", ["gather", "ring"])
def test_across_ranks(across: str) -> None:
    on_ranks(2, derivatives_that_there_are_not, across)


@pytest.mark.parametrize("name", HARD)
def test_compiled_second_derivatives_raise(name: str) -> None:
    f = torch.compile(losses("cpu")[name], backend="aot_eager", fullgraph=True)
    x = torch.randn(N, D)
    with pytest.raises(RuntimeError, match=r"double backward|second derivatives"):
        penalty(f, x)
