"""What contrast_mean means: the mean of the losses over several contrast sets, as the steps of each set make them."""

from typing import Any

import pytest
import torch
from harness.tested_backends import Backend
from torch import Tensor

from fastpixcon.ops import define
from fastpixcon.ops.signature import flat
from fastpixcon.reference.info_nce import d_logits
from fastpixcon.reference.pairs import bank_pairs, batch_pairs
from fastpixcon.testing import ContrastMeanCase
from fastpixcon.values import Statistics

SETS = [
    {"S": 9},
    {"S": 9, "use_batch": False},
    {"M": 21, "S": 9},
    {"S": 9, "mined": True},
    {"mined": True},
    {"S": 9, "rule_of_pairs": "everything"},
]


def called(operators: Backend, case: ContrastMeanCase, **changed: Any) -> tuple[Any, tuple[Tensor, ...]]:
    """Its arguments as values, and what it returns."""
    op, widths = operators.op("contrast_mean", case.dtype), define.WIDTHS["contrast_mean"]
    values = define.OPERATORS["contrast_mean"].values(case.arguments(operators.device))
    values.update(changed)
    return values, op(*flat(list(values.values()), widths))


@pytest.mark.parametrize("denominator", ["negatives", "all", "decoupled"])
@pytest.mark.parametrize("of", SETS, ids=str)
def test_it_is_made_of_the_steps(of: dict[str, Any], denominator: str, operators: Backend) -> None:
    case = ContrastMeanCase(40, 8, labels="ignored", denominator=denominator, reduction="none", scale=1.0, **of)
    given, (loss, share, log_sum, weight, mass, gradient) = called(operators, case)
    anchors, contrast, rule, pairs, bank = list(given.values())[:5]
    log_sums, sums, pull, mean = [], [], None, None
    if case.use_batch:
        log_sums.append(operators.of_values("contrast_sums")(anchors, contrast, rule, pairs, False)[0])
    if bank is not None:
        anchors_of_bank = anchors._replace(positive_weights=None, negative_weights=None)
        own, mean = operators.of_values("memory_sums")(anchors_of_bank, bank, rule, pairs, True)
        log_sums.append(own)
    total = torch.stack(log_sums).logsumexp(dim=0)
    if case.use_batch:
        sums.append(operators.of_values("contrast_positives")(anchors, contrast, rule, pairs, total, None)[:3])
    if bank is not None:
        *found, pull = operators.of_values("memory_positives")(anchors_of_bank, bank, rule, pairs, total, True)
        sums.append(found)
    losses, weights, masses = (sum(x) for x in zip(*sums, strict=True))
    over = torch.where(masses > 0, 1 / masses, 0)
    assert share == 1
    for actual, expected in ((log_sum, total), (loss, losses * over), (weight, weights * over), (mass, masses)):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    if bank is None:
        assert gradient.numel() == 0
        return
    push = (own - total).exp().nan_to_num(0) * (weights * over if denominator == "negatives" else 1)
    expected = (push[:, None] * mean - over[:, None] * pull) / rule.temperature * (masses > 0)[:, None]
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weighed", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("labels", ["mixed", "ignored", "all ignored"])
def test_the_mean_is_over_those_that_have_a_positive(
    labels: str, reduction: str, weighed: bool, operators: Backend
) -> None:
    case = ContrastMeanCase(40, 8, S=9, labels=labels, weighed=weighed, reduction=reduction, scale=3.0, filled="some")
    _, (value, share, *others) = called(operators, case)
    _, (loss, _, *expected) = called(operators, case, reduction="none", anchor_weights=None, scale=1.0)
    counts = expected[2] > 0
    w = torch.ones_like(loss) if not weighed else case.anchor_weights(operators.device)
    counted = float(w[counts].sum()) if reduction == "mean" else 1.0
    torch.testing.assert_close(share, torch.full_like(share, 3.0 / counted if counted > 0 else 3.0))
    torch.testing.assert_close(value, (w * loss)[counts].sum() * share)
    for x, y in zip(others, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighed", [True, False])
def test_what_taints_a_loss_taints_the_mean(reduction: str, weighed: bool, operators: Backend) -> None:
    """Also of an anchor that mining leaves no pair."""
    case = ContrastMeanCase(12, 8, S=9, labels="singles", filled="empty", reduction=reduction, weighed=weighed)
    taint = torch.zeros(12, device=operators.device)
    taint[4] = torch.nan
    _, (value, share, _, _, mass, _) = called(operators, case, taint=taint)
    assert mass[4] == 0
    assert share.isfinite()
    tainted = value.isnan()
    assert tainted.tolist() == ([n == 4 for n in range(12)] if reduction == "none" else True)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighed", [True, False])
@pytest.mark.parametrize("of", SETS, ids=str)
def test_its_gradient(of: dict[str, Any], weighed: bool, reduction: str, operators: Backend) -> None:
    """That of logits on full matrices, of the batch and of the bank."""
    case = ContrastMeanCase(33, 8, weighed=weighed, reduction=reduction, **of)
    op, widths = operators.op("contrast_mean"), define.WIDTHS["contrast_mean"]
    given = define.OPERATORS["contrast_mean"].values(case.arguments(operators.device))
    anchors, contrast, rule = list(given.values())[:3]
    leaves = [anchors.x.requires_grad_(), rule.temperature.requires_grad_()]
    leaves += [] if contrast is None or not case.use_batch else [contrast.x.requires_grad_()]
    value, share, log_sum, weight, mass, _ = op(*flat(list(given.values()), widths))
    d_value = torch.randn_like(value)
    actual = torch.autograd.grad(value, leaves, d_value)

    w = torch.ones_like(mass) if given["anchor_weights"] is None else given["anchor_weights"]
    statistics = Statistics(*(x.detach().cpu().double() for x in (d_value * share * w, log_sum, weight, mass)))
    a, c, of_rule, of_pairs, b = list(define.OPERATORS["contrast_mean"].values(case.arguments()).values())[:5]
    x, tau = a.x.double(), of_rule.temperature.double()
    d_anchors, d_contrast, d_tau = torch.zeros_like(x), None, 0.0
    if case.use_batch:
        these = batch_pairs(a, c, of_rule, of_pairs)
        g = d_logits(these, of_rule, statistics).double()
        columns = x if c is None else c.x.double()
        d_anchors += ((g + g.T) if c is None else g) @ columns / tau
        d_contrast = g.T @ x / tau
        d_tau -= (g * these.cosine).sum() / tau**2
    if b is not None:
        these = bank_pairs(a._replace(positive_weights=None, negative_weights=None), b, of_rule, of_pairs)
        g = d_logits(these, of_rule, statistics).double()
        d_anchors += g @ b.x.double().flatten(0, 1) / tau
        d_tau -= (g * these.cosine).sum() / tau**2
    for got, wanted in zip(actual, (d_anchors, d_tau, d_contrast), strict=False):
        torch.testing.assert_close(got.cpu().double(), torch.as_tensor(wanted), rtol=1e-4, atol=1e-4)


def test_there_is_a_contrast_set(operators: Backend) -> None:
    with pytest.raises(ValueError, match="bank: got None"):
        called(operators, ContrastMeanCase(6, 4, use_batch=False))
