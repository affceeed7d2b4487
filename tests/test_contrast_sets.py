"""Temperature, denominator, mining, memory and rules of pairs compose: losses over several contrast sets against
float64."""

from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
import torch
from harness.tested_backends import Backend
from hypothesis import strategies as st
from torch import Tensor

import fastpixcon as fpc
from fastpixcon import contrast
from fastpixcon.balance import balances, with_balance
from fastpixcon.ops import define
from fastpixcon.ops.mining_thresholds import KINDS
from fastpixcon.reference.pairs import bank_pairs, batch_pairs
from fastpixcon.testing import Tolerance, assert_as_accurate
from fastpixcon.testing.rounding import of_dtype, of_losses
from fastpixcon.values import ALL_PAIRS, BankRows, Rows, Rule


class Content:
    """Of a memory bank."""

    def __init__(self, rows: Tensor, labels: Tensor) -> None:
        self.rows, self.labels = rows, labels


def between_cosines(mined: Tensor, cosines: Tensor) -> Tensor:
    """Thresholds moved to the middle between the cosines around them, so that no rounding moves a pair across; beyond
    all where those are too close to each other, or there is none on one side."""
    mined = mined.double().clone()
    for row, beyond in ((0, -torch.inf), (1, torch.inf)):
        t = mined[row][:, None]
        below = cosines.masked_fill(cosines >= t, -torch.inf).amax(dim=1)
        above = cosines.masked_fill(cosines < t, torch.inf).amin(dim=1)
        apart = below.isfinite() & above.isfinite() & (above - below >= 1e-3)
        mined[row] = torch.where(apart, (below + above) / 2, beyond)
    return mined


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "N": draw(st.integers(2, 70)),
        "D": draw(st.sampled_from([3, 16, 40, 64])),
        "classes": draw(st.integers(1, 6)),
        "S": draw(st.one_of(st.none(), st.integers(1, 40))),
        "filled": draw(st.sampled_from([0.0, 0.5, 1.0])),
        "ignored": draw(st.sampled_from([0.0, 0.3])),
        "separate": draw(st.sampled_from([None, 33])),
        "temperature": draw(st.sampled_from([0.07, 0.1, 1.0, 0.02])),
        "learned": draw(st.booleans()),
        "denominator": draw(st.sampled_from(["negatives", "all", "decoupled"])),
        "weights": draw(st.booleans()),
        "class_weights": draw(st.booleans()),
        "balanced": draw(st.booleans()),
        "positive_groups": draw(st.sampled_from(["any", "any", "same", "other"])),
        "negative_groups": draw(st.sampled_from(["any", "any", "same", "other"])),
        "contrast_with": draw(st.sampled_from(["both", "both", "batch", "memory"])),
        "mining": draw(st.one_of(st.none(), st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)))),
        "dtype": draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16])),
        "seed": draw(st.integers(0, 2**40)),
    }


def doubled(rows: Rows) -> Rows:
    return rows._replace(x=rows.x.double())


def rule_of(p: dict[str, Any], tau: Tensor) -> Rule:
    W = None
    if p["class_weights"]:
        W = torch.rand(p["classes"] + 1, p["classes"] + 1, generator=torch.Generator().manual_seed(p["seed"]))
        W = (W * (W > 0.2)).to(tau)
    fixed_shift = not p["learned"] and p["temperature"] >= 0.025
    return Rule(tau, p["denominator"], fixed_shift, False, W, p["positive_groups"], p["negative_groups"])


def arguments(p: dict[str, Any]) -> tuple[Rows, Rows | None, Content | None]:
    generator = torch.Generator().manual_seed(p["seed"])
    toward = torch.randn(p["classes"], p["D"], generator=generator)

    def rows(labels: Tensor) -> Tensor:
        x = torch.randn(*labels.shape, p["D"], generator=generator) + toward[labels]
        return torch.nn.functional.normalize(x, dim=-1).to(p["dtype"])

    def side(count: int) -> Rows:
        labels = torch.randint(p["classes"], (count,), generator=generator)
        x = rows(labels)
        labels = labels.masked_fill(torch.rand(count, generator=generator) < p["ignored"], -1)
        v = torch.rand(count, generator=generator)
        groups = torch.randint(3, (count,), generator=generator).int()
        return Rows(x, labels, v * (v > 0.2), v, groups)

    anchors = side(p["N"])
    other = None if p["separate"] is None else side(p["separate"])
    if not p["weights"]:
        anchors, other = (
            x if x is None else x._replace(positive_weights=None, negative_weights=None) for x in (anchors, other)
        )
    grouped = (p["positive_groups"], p["negative_groups"]) != ("any", "any")
    anchors, other = (x if x is None or grouped else x._replace(groups=None) for x in (anchors, other))
    bank = None
    if p["S"] is not None:
        labels = torch.arange(p["classes"])[:, None].repeat(1, p["S"])
        content = rows(labels)
        empty = torch.rand(labels.shape, generator=generator) >= p["filled"]
        bank = Content(content, labels.masked_fill(empty, -1).int())
    return anchors, other, bank


@pytest.fixture
def with_thresholds(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Tensor], Tensor]], None]:
    """Lets losses keep the pairs of other thresholds than they found, ``replace(found)``."""
    original = contrast.call

    def use(replace: Callable[[Tensor], Tensor]) -> None:
        def call(operator: str, *rest: Any) -> Any:
            result = original(operator, *rest)
            return replace(result) if operator == "mining_thresholds" else result

        monkeypatch.setattr(contrast, "call", call)

    return use


@hypothesis.settings(max_examples=20 if define.INTERPRETING else 60)
@hypothesis.given(p=problems())
def test_every_combination_is_as_accurate_as_the_reference(
    p: dict[str, Any], complete_backend: Backend, with_thresholds: Callable[..., None]
) -> None:
    hypothesis.assume(p["contrast_with"] != "memory" or p["S"] is not None)
    p["contrast_with"] = "both" if p["S"] is None else p["contrast_with"]
    anchors, other, bank = arguments(p)
    mining = None if p["mining"] is None else fpc.Mining(*p["mining"], fraction=0.4, keep=(5, 20))
    cosines = []
    if p["contrast_with"] != "memory":
        others = None if other is None else doubled(other)
        rule = rule_of(p, torch.ones((), dtype=torch.float64))
        cosines.append(batch_pairs(doubled(anchors), others, rule, ALL_PAIRS).cosine)
    if bank is not None and p["contrast_with"] != "batch":
        rows = BankRows(bank.rows.double(), bank.labels)
        cosines.append(
            bank_pairs(doubled(anchors), rows, rule_of(p, torch.ones((), dtype=torch.float64)), ALL_PAIRS).cosine
        )
    kept: list[Tensor] = []

    def once(mined: Tensor) -> Tensor:
        if not kept:  # the first run is of the backend under test
            kept.append(between_cosines(mined.cpu(), torch.cat(cosines, dim=1)))
        return kept[0].to(mined)

    with_thresholds(once)

    def run(name: str, dtype: torch.dtype, device: str) -> list[Tensor]:
        wide = torch.float64 if dtype == torch.float64 else torch.float32

        def on_device(x: Rows) -> Rows:
            weights = [None if w is None else w.to(device, wide) for w in x[2:4]]
            return Rows(
                x.x.to(device, dtype), x.labels.to(device), *weights, None if x.groups is None else x.groups.to(device)
            )

        sets = [None if x is None else on_device(x) for x in (anchors, other)]
        rows = [None if x is None else x.x.requires_grad_() for x in sets]
        tau = torch.tensor(p["temperature"], dtype=wide, device=device, requires_grad=True)
        content = None if bank is None else Content(bank.rows.to(device, dtype), bank.labels.to(device))
        how = contrast.how_to(use_batch=p["contrast_with"] != "memory", mining=mining, backend=name)
        used = None if p["contrast_with"] == "batch" else content
        own, others = sets
        bank_weights = None
        if p["balanced"]:
            counted = None if not how.use_batch else own if others is None else others
            of_rows, bank_weights = balances(counted, None if used is None else used.labels, own.x)
            if others is None:
                own = with_balance(own, of_rows)
            else:
                others = with_balance(others, of_rows)
        seed = torch.tensor(p["seed"], device=device)
        loss = contrast.contrast_loss(
            own, others, rule_of(p, tau), bank=used, bank_weights=bank_weights, seed=seed, how=how
        )
        weights = torch.linspace(-1, 1, len(loss[0])).to(loss[0])
        inputs = [x for x in (*rows, tau) if x is not None]
        gradients = torch.autograd.grad((loss[0] * weights).sum(), inputs, allow_unused=True)
        zeros = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, gradients, strict=True)]
        return [*loss, *zeros]

    actual = run(complete_backend.name, p["dtype"], complete_backend.device)
    expected, truth = run("reference", p["dtype"], "cpu"), run("reference", torch.float64, "cpu")
    torch.testing.assert_close(actual[1].cpu().double(), truth[1], rtol=1e-6, atol=0)
    N = p["N"] ** 0.5
    logit = 1 / p["temperature"]
    columns = sum(len(x.x) for x in (anchors, other) if x is not None) + (0 if bank is None else bank.labels.numel())
    tol, rounding = of_losses(logit, anchors.x.shape[1], columns), of_dtype(p["dtype"])
    for k, (x, reference, t) in enumerate(zip(actual, expected, truth, strict=True)):
        if k == 1:
            continue
        scale = N if k == 0 else N * logit if k < len(actual) - 1 else N * logit**2
        tolerance = Tolerance(tol, scale, 0.0 if k == 0 else rounding, scale)
        assert_as_accurate(x, reference, t, tolerance, name=f"output {k}")


def test_memory_alone_is_contrast_with_its_rows(complete_backend: Backend) -> None:
    generator = torch.Generator().manual_seed(0)
    bank = fpc.MemoryBank(4, 16, 6, 3).to(complete_backend.device)
    content = torch.randn(200, 16, generator=generator).to(complete_backend.device)
    labels = torch.randint(-1, 4, (200,), generator=generator).int().to(complete_backend.device)
    bank.enqueue_rows(torch.nn.functional.normalize(content, dim=1), labels, content[:0], labels[:0])
    x = torch.randn(30, 16, generator=generator).to(complete_backend.device).requires_grad_()
    y = torch.randint(5, (30,), generator=generator).to(complete_backend.device)
    loss = fpc.functional.info_nce(x, y, memory=bank, contrast_with="memory")
    rows, row_labels = bank.rows.flatten(0, 1), bank.labels.flatten()
    expected = fpc.functional.info_nce(x, y, rows, row_labels)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(value, x)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_each_is_the_loss_with_the_batch_and_that_with_the_bank(
    separate: bool, reduction: str, complete_backend: Backend
) -> None:
    generator = torch.Generator().manual_seed(0)
    device = complete_backend.device
    bank = fpc.MemoryBank(4, 16, 6, 3).to(device)
    content = torch.nn.functional.normalize(torch.randn(60, 16, generator=generator), dim=1).to(device)
    labels = torch.randint(-1, 4, (60,), generator=generator).int().to(device)
    bank.enqueue_rows(content, labels, content[:0], labels[:0])
    x, c = (torch.randn(n, 16, generator=generator).to(device).requires_grad_() for n in (30, 40))
    y, z, groups, others = (torch.randint(5, (n,), generator=generator).to(device) for n in (30, 40, 30, 40))
    weights, of_others = (torch.rand(n, generator=generator).to(device) for n in (30, 40))
    how = {"reduction": reduction, "weights": weights, "groups": groups, "pairs": fpc.Pairs(negatives="other")}
    of_batch = {"contrast_groups": others, "contrast_weights": of_others} if separate else {}
    rows = (c, z) if separate else ()

    def loss(*rows: torch.Tensor, **more: Any) -> torch.Tensor:
        return fpc.functional.info_nce(x, y, *rows, **how, **more)

    found = loss(*rows, **of_batch, memory=bank, contrast_with="each")
    expected = loss(*rows, **of_batch) + loss(memory=bank, contrast_with="memory")
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    wanted = (x, c) if separate else (x,)
    gradients = [torch.autograd.grad(value.sum(), wanted) for value in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_backward_does_not_look_at_the_bank_again(complete_backend: Backend) -> None:
    generator = torch.Generator().manual_seed(0)
    bank = fpc.MemoryBank(3, 8, 5, 2).to(complete_backend.device)
    content = torch.nn.functional.normalize(torch.randn(40, 8, generator=generator), dim=1).to(complete_backend.device)
    bank.enqueue_rows(
        content,
        torch.arange(40, device=complete_backend.device).int() % 3,
        content[:0],
        torch.zeros(0, device=complete_backend.device).int(),
    )
    x = torch.randn(20, 8, generator=generator).to(complete_backend.device).requires_grad_()
    y = torch.arange(20, device=complete_backend.device) % 3
    (expected,) = torch.autograd.grad(fpc.functional.info_nce(x, y, memory=bank), x)
    loss = fpc.functional.info_nce(x, y, memory=bank)
    bank.reset()
    assert torch.equal(torch.autograd.grad(loss, x)[0], expected)


def test_rows_without_direction_stay_zero_and_get_no_gradient(complete_backend: Backend) -> None:
    """As without a memory."""
    x = torch.randn(20, 16, generator=torch.Generator().manual_seed(0))
    x[::4] = 0
    x[1] *= 1e-20
    x = x.to(complete_backend.device).requires_grad_()
    y = torch.arange(20, device=complete_backend.device) % 3
    with torch.no_grad():
        x[6], y[6] = torch.nan, -1  # left out: nobody looks
    everything = fpc.Mining("none", "none")
    losses = [fpc.functional.info_nce(x, y, mining=mining) for mining in (None, everything)]
    gradients = [torch.autograd.grad(loss, x)[0] for loss in losses]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert not gradients[1][::4].any()
    assert not gradients[1][1].any()
