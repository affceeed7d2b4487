"""What info_nce_mean means: the mean of the losses of info_nce, and what a loss is of it."""

import pytest
import torch
from harness.tested_backends import Backend

from fastpixcon.testing import InfoNCEMeanCase


@pytest.mark.parametrize("weighed", [True, False])
@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("labels", ["mixed", "ignored", "singles", "all ignored"])
def test_it_is_the_mean_of_those_that_have_a_positive(
    labels: str, mean: bool, weighed: bool, operators: Backend
) -> None:
    case = InfoNCEMeanCase(40, 8, labels=labels, weighed=weighed, mean=mean, scale=3.0)
    device = operators.device
    given, w = (*case.sets(device), case.rule(device), case.rows), case.anchor_weights(device)
    loss, *found = operators.of_values("info_nce")(*given)
    value, share, *others = operators.of_values("info_nce_mean")(*given, w, 3.0, mean)
    counts = found[-1] > 0
    weights = torch.ones_like(loss) if w is None else w
    counted = float(weights[counts].sum()) if mean else 1.0
    torch.testing.assert_close(share, torch.full_like(share, 3.0 / counted if counted > 0 else 3.0))
    torch.testing.assert_close(value, (weights * loss)[counts].sum() * share)
    for x, y in zip(others, found, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("weighed", [True, False])
@pytest.mark.parametrize("M", [None, 21])
def test_its_gradient_is_that_of_the_losses(M: int | None, weighed: bool, mean: bool, operators: Backend) -> None:
    case = InfoNCEMeanCase(33, 8, M=M, weighed=weighed, mean=mean)
    device = operators.device
    anchors, contrast = case.sets(device)
    rule, w = case.rule(device), case.anchor_weights(device)
    leaves = [anchors.x.requires_grad_(), rule.temperature.requires_grad_()]
    leaves += [] if contrast is None else [contrast.x.requires_grad_()]
    value, *_ = operators.of_values("info_nce_mean")(anchors, contrast, rule, "raw", w, 0.7, mean)
    loss, *_, mass = operators.of_values("info_nce")(anchors, contrast, rule, "raw")
    weights = torch.ones_like(loss) if w is None else w
    of_losses = (0.7 * weights * loss).sum() / (weights[mass > 0].sum() if mean else 1)
    actual, expected = (torch.autograd.grad(x * -2, leaves) for x in (value, of_losses))
    for x, y in zip(actual, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
