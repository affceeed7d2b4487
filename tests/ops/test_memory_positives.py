"""What memory_positives means: contrast_positives over the rows of a bank that are there, and what pulls an anchor."""

import pytest
import torch
from harness.tested_backends import Backend

from fastpixcon.testing import MemoryCase
from fastpixcon.values import ALL_PAIRS, Rows


@pytest.mark.parametrize("denominator", ["negatives", "all"])
@pytest.mark.parametrize("filled", ["half", "some"])
def test_it_is_contrast_with_the_filled_places(denominator: str, filled: str, operators: Backend) -> None:
    memory, contrast = operators.of_values("memory_positives"), operators.of_values("contrast_positives")
    case = MemoryCase(40, 16, 30, denominator=denominator, filled=filled, labels="strange")
    anchors, bank, rule, pairs = case.values(operators.device)
    log_sum = torch.linspace(-3, 12, 40, device=operators.device)
    *sums, pull = memory(anchors, bank, rule, pairs, log_sum, True)
    there = bank.labels.flatten() >= 0
    rows, row_labels = bank.x.flatten(0, 1)[there], bank.labels.flatten()[there]
    unsorted = rule._replace(is_sorted=False)
    expected = contrast(anchors, Rows(rows, row_labels), unsorted, ALL_PAIRS, log_sum, None)
    for actual, wanted in zip(sums, expected, strict=False):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4)
    weights = (
        torch.sigmoid(log_sum[:, None] - anchors.x @ rows.T / rule.temperature) if denominator == "negatives" else 1.0
    )
    positives = (anchors.labels[:, None] == row_labels) & (anchors.labels != -1)[:, None]
    torch.testing.assert_close(pull, (positives * weights) @ rows, rtol=1e-4, atol=1e-4)


def test_pulls_of_any_size_keep_their_bits(operators: Backend) -> None:
    """Where log Z is far below the logits of the positives, these pull by e^-50 and less."""
    case = MemoryCase(40, 40, 30, labels="sorted")
    anchors, bank, rule, pairs = case.values(operators.device)
    log_sum = torch.linspace(-60, 3, 40, device=operators.device)
    *_, pull = operators.of_values("memory_positives")(anchors, bank, rule, pairs, log_sum, True)
    there = bank.labels.flatten() >= 0
    rows, row_labels = bank.x.flatten(0, 1)[there].double(), bank.labels.flatten()[there]
    weights = torch.sigmoid(log_sum.double()[:, None] - anchors.x.double() @ rows.T / rule.temperature.double())
    weights = weights * ((anchors.labels[:, None] == row_labels) & (anchors.labels != -1)[:, None])
    scale = weights.sum(1, keepdim=True).clamp(min=1e-300)
    assert float(scale[weights.any(1)].amin()) < 1e-20
    torch.testing.assert_close(pull.double() / scale, weights @ rows / scale, rtol=0, atol=1e-4)


def test_classes_that_the_bank_lacks_have_no_positives(operators: Backend) -> None:
    op = operators.of_values("memory_positives")
    case = MemoryCase(24, 16, 9, filled="all", classes=3)
    anchors, *given = case.values(operators.device)
    anchors.labels[:] = torch.tensor([3, -2, 7, -1], device=operators.device).repeat(6)
    loss, weight, mass, pull = op(anchors, *given, torch.zeros(24, device=operators.device), True)
    for x in (loss, weight, mass, pull):
        assert not x.any()
