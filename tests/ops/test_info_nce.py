"""What info_nce means: hand-worked examples, the papers' equations in a loop, and other people's implementations."""

import math

import pytest
import torch
from harness.tested_backends import Backend
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import NTXentLoss, SupConLoss
from pytorch_metric_learning.reducers import MeanReducer, PerAnchorReducer
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

import fastpixcon as fpc
from fastpixcon.functional import info_nce
from fastpixcon.ops import define

DENOMINATORS = ("negatives", "all")


def rows_like_classes(y: Tensor, D: int = 24, spread: float = 1.0) -> Tensor:
    toward = torch.randn(int(y.max()) + 1, D)[y]
    return spread * torch.randn(len(y), D) + toward


def literal_loss(a: Tensor, y: Tensor, c: Tensor | None, z: Tensor | None, tau: float, denominator: str) -> list[float]:
    """The equations, one pair at a time, for unit rows in float64."""
    own = c is None
    c, z = (a, y) if c is None or z is None else (c, z)
    losses = []
    for i in range(len(a)):
        positives, negatives = [], []
        for j in range(len(c)):
            if y[i] == -1 or z[j] == -1 or (own and i == j):
                continue
            s = float(a[i].double() @ c[j].double()) / tau
            (positives if y[i] == z[j] else negatives).append(s)
        Z = math.fsum(math.exp(s) for s in negatives)
        if denominator == "all":
            Z += math.fsum(math.exp(s) for s in positives)
            terms = [math.log(Z) - s for s in positives]
        else:
            terms = [-math.log(math.exp(s) / (math.exp(s) + Z)) for s in positives]
        losses.append(math.fsum(terms) / len(terms) if terms else 0.0)
    return losses


EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


@pytest.mark.parametrize(
    ("rows", "labels", "tau", "denominator", "losses"),
    [
        # one positive at s = 1, one negative at s = 0
        ([EAST, EAST, NORTH], [0, 0, 1], 1.0, "negatives", [math.log(1 + math.exp(-1))] * 2 + [0]),
        ([EAST, EAST, NORTH], [0, 0, 1], 1.0, "all", [math.log(1 + math.exp(-1))] * 2 + [0]),
        ([EAST, EAST, NORTH], [0, 0, 1], 0.5, "negatives", [math.log(1 + math.exp(-2))] * 2 + [0]),
        # two positives of different similarity
        (
            [EAST, EAST, NORTH, NORTH],
            [0, 0, 0, 1],
            1.0,
            "negatives",
            [(math.log(1 + math.exp(-1)) + math.log(2)) / 2] * 2 + [math.log(1 + math.e), 0],
        ),
        (
            [EAST, EAST, NORTH, NORTH],
            [0, 0, 0, 1],
            1.0,
            "all",
            [math.log(math.e + 2) - 0.5] * 2 + [math.log(2 + math.e), 0],
        ),
        # the positive lies opposite, the negative on the anchor
        ([EAST, WEST, EAST], [3, 3, 8], 0.1, "negatives", [math.log(1 + math.exp(20)), math.log(2), 0]),
        # no negative: Z = 0
        ([EAST, NORTH, WEST], [5, 5, 5], 0.1, "negatives", [0, 0, 0]),
        ([EAST, EAST], [5, 5], 0.1, "all", [0, 0]),
        # -1 is neither an anchor nor a negative
        ([EAST, EAST, NORTH, WEST], [0, 0, 1, -1], 1.0, "negatives", [math.log(1 + math.exp(-1))] * 2 + [0, 0]),
    ],
)
@pytest.mark.parametrize("unit", [True, False], ids=["unit", "raw"])
def test_worked_by_hand(
    rows: list[list[float]],
    labels: list[int],
    tau: float,
    denominator: str,
    losses: list[float],
    unit: bool,
    backend: Backend,
) -> None:
    a = torch.tensor(rows, device=backend.device) * (1 if unit else 3)
    y = torch.tensor(labels, device=backend.device)
    loss = info_nce(a, y, temperature=tau, denominator=denominator, normalize=not unit, reduction="none")
    torch.testing.assert_close(loss.cpu(), torch.tensor(losses, dtype=torch.float32), rtol=1e-5, atol=1e-6)
    mean = info_nce(a, y, temperature=tau, denominator=denominator, normalize=not unit)
    with_positive = sum(labels.count(label) > 1 and label != -1 for label in labels)
    torch.testing.assert_close(float(mean), sum(losses) / with_positive, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("M", [None, 23])
@pytest.mark.parametrize("tau", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_the_equation_in_a_loop(denominator: str, tau: float, M: int | None, backend: Backend) -> None:
    y = torch.randint(-1, 4, (31,))
    a = normalize(rows_like_classes(y.clamp(min=0)))
    c = z = None
    if M is not None:
        z = torch.randint(-1, 5, (M,))
        c = normalize(rows_like_classes(z.clamp(min=0)))
    expected = torch.tensor(literal_loss(a, y, c, z, tau, denominator))
    there = [x if x is None else x.to(backend.device) for x in (a, y, c, z)]
    for factor in (None, 0.37):  # unit rows as they are; raw rows of any length
        if factor is not None:
            there = [x * factor if x is not None and x.is_floating_point() else x for x in there]
        loss = info_nce(
            *there, temperature=tau, denominator=denominator, normalize=factor is not None, reduction="none"
        )
        torch.testing.assert_close(loss.cpu(), expected.to(loss.dtype), rtol=3e-5, atol=1e-5)


def close_with_gradient(ours: Tensor, theirs: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs.to(ours), rtol=1e-5, atol=1e-5)  # the rounding of a logit of 20 is 2e-6
    gradients = [torch.autograd.grad(loss, inputs, retain_graph=True) for loss in (ours, theirs)]
    for x, y in zip(*gradients, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=max(1e-5 * float(y.abs().max()), 1e-6))


@pytest.mark.parametrize("tau", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("N", [2, 40, 203])
def test_supcon_of_pytorch_metric_learning(N: int, tau: float, backend: Backend) -> None:
    y = torch.randint(max(N // 9, 1), (N,), device=backend.device)
    y[:2] = 0  # at least one positive
    x = rows_like_classes(y.cpu()).to(backend.device).requires_grad_()
    theirs = SupConLoss(temperature=tau)(x, y)
    close_with_gradient(info_nce(x, y, temperature=tau, denominator="all"), theirs, [x])
    close_with_gradient(fpc.SupConLoss(tau)(x, y), theirs, [x])


def test_the_formula_of_supcontrast(backend: Backend) -> None:
    """github.com/HobbitLong/SupContrast: features [B, V, D] of V views an image, all of them anchors; with labels, and
    without, where an image's views are its positives (SimCLR)."""
    B, V, tau, base_tau = 20, 3, 0.1, 0.07
    views = torch.randn(B, V, 24, device=backend.device).requires_grad_()
    for labels in (torch.arange(B, device=backend.device) % 7, torch.arange(B, device=backend.device)):
        same = (labels[:, None] == labels).float().repeat(V, V)  # [V B, V B], views one after the other
        other = 1 - torch.eye(V * B, device=backend.device)
        rows = normalize(views, dim=2).transpose(0, 1).reshape(V * B, -1)
        logits = rows @ rows.T / tau
        log_prob = logits - (logits.exp() * other).sum(dim=1, keepdim=True).log()
        theirs = -(tau / base_tau) * ((same * other * log_prob).sum(dim=1) / (same * other).sum(dim=1)).mean()
        flat = views.transpose(0, 1).reshape(V * B, -1)
        ours = info_nce(flat, labels.repeat(V), temperature=tau, base_temperature=base_tau, denominator="all")
        close_with_gradient(ours, theirs, [views])


@pytest.mark.parametrize("tau", [0.07, 0.5])
@pytest.mark.parametrize("N", [4, 60, 120])
def test_ntxent_of_pytorch_metric_learning(N: int, tau: float, backend: Backend) -> None:
    """Their pairs averaged by anchor are the pixel contrast equation."""
    y = torch.randint(max(N // 12, 2), (N,), device=backend.device)
    y[: N // 2] = y[N // 2 :]  # every anchor has a positive
    x = rows_like_classes(y.cpu()).to(backend.device).requires_grad_()
    theirs = NTXentLoss(temperature=tau, reducer=PerAnchorReducer(reducer=MeanReducer()))(x, y)
    ours = info_nce(x, y, temperature=tau, base_temperature=tau, denominator="negatives")
    close_with_gradient(ours, theirs, [x])
    close_with_gradient(fpc.InfoNCELoss(tau)(x, y), theirs, [x])


def test_ntxent_of_two_views(backend: Backend) -> None:
    y = torch.arange(30, device=backend.device).repeat(2)
    x = rows_like_classes(y.cpu()).to(backend.device).requires_grad_()
    close_with_gradient(fpc.InfoNCELoss(0.07)(x, y), NTXentLoss(0.07)(x, y), [x])


@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_cross_entropy_where_every_row_has_one_positive(denominator: str, backend: Backend) -> None:
    y = torch.arange(45, device=backend.device)
    a, c = (rows_like_classes(y.cpu()).to(backend.device).requires_grad_() for _ in range(2))
    theirs = cross_entropy(normalize(a) @ normalize(c).T / 0.07, y)
    close_with_gradient(info_nce(a, y, c, y, temperature=0.07, denominator=denominator), theirs, [a, c])


def eager_loss(a: Tensor, y: Tensor, c: Tensor | None, z: Tensor | None, tau: Tensor, denominator: str) -> Tensor:
    """[N], differentiable by autograd alone."""
    own = c is None
    c, z = (a, y) if c is None or z is None else (c, z)
    s = a @ c.T / tau
    counts = (y != -1)[:, None] & (z != -1)
    if own:
        counts &= ~torch.eye(len(y), dtype=torch.bool, device=y.device)
    positives, e = counts & (y[:, None] == z), s.exp()
    negatives = counts & ~positives
    if denominator == "all":
        Z = (e * counts).sum(1, keepdim=True)
        terms = torch.where(Z > 0, Z, 1).log() - s
    else:
        terms = ((e * negatives).sum(1, keepdim=True) * (-s).exp()).log1p()
    return torch.where(positives, terms, 0).sum(1) / positives.sum(1).clamp(min=1)


@pytest.mark.parametrize("M", [None, 50])
@pytest.mark.parametrize("base_temperature", [None, 0.07])
@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_gradient_of_the_temperature(
    denominator: str, base_temperature: float | None, M: int | None, backend: Backend
) -> None:
    y = torch.randint(-1, 5, (64,), device=backend.device)
    a = torch.randn(64, 16, device=backend.device).requires_grad_()
    tau = torch.tensor(0.2, device=backend.device, requires_grad=True)
    c = z = None
    if M is not None:
        c, z = torch.randn(M, 16, device=backend.device).requires_grad_(), torch.arange(M, device=backend.device) % 5
    ours = info_nce(
        a, y, c, z, temperature=tau, base_temperature=base_temperature, denominator=denominator, reduction="sum"
    )
    losses = eager_loss(normalize(a), y, None if c is None else normalize(c), z, tau, denominator)
    theirs = losses.sum() * (1 if base_temperature is None else tau / base_temperature)
    close_with_gradient(ours, theirs, [a, tau] if c is None else [a, c, tau])


def test_temperature_alone_gets_its_gradient(backend: Backend) -> None:
    y = torch.arange(20, device=backend.device) % 3
    a = normalize(torch.randn(20, 8, device=backend.device))
    tau = torch.tensor(0.3, device=backend.device, requires_grad=True)
    ours = info_nce(a, y, temperature=tau, normalize=False)
    close_with_gradient(ours, eager_loss(a, y, None, None, tau, "negatives").mean(), [tau])


@pytest.mark.parametrize("tau", [0.1, torch.tensor(0.1)])
def test_base_temperature_scales(tau: float | Tensor, backend: Backend) -> None:
    y = torch.arange(20, device=backend.device) % 3
    x = torch.randn(20, 8, device=backend.device)
    plain = info_nce(x, y, temperature=tau)
    torch.testing.assert_close(info_nce(x, y, temperature=tau, base_temperature=0.1), plain)
    torch.testing.assert_close(info_nce(x, y, temperature=tau, base_temperature=0.05), 2 * plain)


@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_reductions(denominator: str, backend: Backend) -> None:
    y = torch.tensor([0, 0, 1, 2, 2, 2, -1, 3], device=backend.device)
    x = torch.randn(8, 5, device=backend.device)
    none, total, mean = (
        info_nce(x, y, denominator=denominator, reduction=r, temperature=0.5) for r in ("none", "sum", "mean")
    )
    assert none.shape == (8,)
    assert (none[[2, 6, 7]] == 0).all()
    torch.testing.assert_close(none.sum(), total)
    torch.testing.assert_close(total / 5, mean)


@given(
    seed=st.integers(0, 10**6),
    N=st.integers(2, 70),
    D=st.integers(1, 40),
    classes=st.integers(1, 12),
    denominator=st.sampled_from(DENOMINATORS),
    tau=st.sampled_from([0.02, 0.1, 1.0]),
)
@settings(max_examples=5 if define.INTERPRETING else 25)
def test_laws(backend: Backend, seed: int, N: int, D: int, classes: int, denominator: str, tau: float) -> None:
    torch.manual_seed(seed)
    y = torch.randint(-1, classes, (N,), device=backend.device)
    x = torch.randn(N, D, device=backend.device)

    def losses(x: Tensor, y: Tensor, c: Tensor | None = None, z: Tensor | None = None) -> Tensor:
        return info_nce(x, y, c, z, temperature=tau, denominator=denominator, reduction="none")

    def same(ours: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5)

    loss = losses(x, y)
    order = torch.randperm(N, device=backend.device)
    same(losses(x[order], y[order]), loss[order])  # the order of rows means nothing
    same(losses(x * torch.rand(N, 1, device=backend.device).add(0.1), y), loss)  # nor does their length
    renamed = torch.where(y == -1, -1, 1000 - 7 * y)
    same(losses(x, renamed), loss)  # nor the names of the classes
    more = torch.cat([x, torch.randn(5, D, device=backend.device)])
    same(losses(more, torch.cat([y, y.new_full((5,), -1)]))[:N], loss)  # rows left out leave no trace
    apart = losses(x, y, more, torch.cat([y, y.new_full((5,), 1)]))
    half = N // 2
    same(losses(x[half:], y[half:], more, torch.cat([y, y.new_full((5,), 1)])), apart[half:])  # anchors don't meet
