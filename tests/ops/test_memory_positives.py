"""What memory_positives means: contrast_positives over the rows of a bank that are there, and what pulls an anchor."""

import pytest
import torch
from tested_backends import Backend

from fastpixcon.testing import MemoryCase


@pytest.mark.parametrize("denominator", ["negatives", "all"])
@pytest.mark.parametrize("filled", ["half", "some"])
def test_it_is_contrast_with_the_filled_places(denominator: str, filled: str, operators: Backend) -> None:
    memory, contrast = operators.op("memory_positives"), operators.op("contrast_positives")
    case = MemoryCase(40, 16, 30, denominator=denominator, filled=filled, labels="strange")
    a, y, bank, labels, tau, _, fixed_shift, is_sorted, *_ = case.arguments(operators.device)
    log_sum = torch.linspace(-3, 12, 40, device=operators.device)
    how = (denominator, fixed_shift)
    *sums, pull = memory(a, y, bank, labels, tau, log_sum, *how, is_sorted, 0, None, None, True)
    there = labels.flatten() >= 0
    rows, row_labels = bank.flatten(0, 1)[there], labels.flatten()[there]
    expected = contrast(a, y, rows, row_labels, tau, log_sum, None, *how, False, None, None, None)
    for actual, wanted in zip(sums, expected, strict=False):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4)
    weights = torch.sigmoid(log_sum[:, None] - a @ rows.T / tau) if denominator == "negatives" else 1.0
    positives = (y[:, None] == row_labels) & (y != -1)[:, None]
    torch.testing.assert_close(pull, (positives * weights) @ rows, rtol=1e-4, atol=1e-4)


def test_classes_that_the_bank_lacks_have_no_positives(operators: Backend) -> None:
    op = operators.op("memory_positives")
    case = MemoryCase(24, 16, 9, filled="all", classes=3)
    a, y, bank, labels, tau, *_ = case.arguments(operators.device)
    y[:] = torch.tensor([3, -2, 7, -1], device=y.device).repeat(6)
    loss, weight, count, pull = op(
        a, y, bank, labels, tau, torch.zeros(24, device=y.device), "negatives", True, False, 0, None, None, True
    )
    for x in (loss, weight, count, pull):
        assert not x.any()
