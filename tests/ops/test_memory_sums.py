"""What memory_sums means: contrast_sums over the rows of a bank that are there, and the mean that they weigh."""

import pytest
import torch
from tested_backends import Backend

from fastpixcon.testing import MemoryCase


@pytest.mark.parametrize("denominator", ["negatives", "all"])
@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_it_is_contrast_with_the_filled_places(denominator: str, temperature: float, operators: Backend) -> None:
    memory, contrast = operators.op("memory_sums"), operators.op("contrast_sums")
    case = MemoryCase(40, 16, 30, denominator=denominator, temperature=temperature)
    a, y, bank, labels, tau, denominator, fixed_shift, is_sorted, *_ = case.arguments(operators.device)
    log_sum, mean = memory(a, y, bank, labels, tau, denominator, fixed_shift, is_sorted, 0, None, None, True)
    filled = labels.flatten() >= 0
    rows, row_labels = bank.flatten(0, 1)[filled], labels.flatten()[filled]
    expected, _ = contrast(a, y, rows, row_labels, tau, denominator, fixed_shift, False, None, False, None, None)
    torch.testing.assert_close(log_sum, expected, rtol=1e-5, atol=1e-5)
    logits = (a @ rows.T / tau).masked_fill(
        (y[:, None] == row_labels) if denominator == "negatives" else torch.zeros((), dtype=torch.bool), -torch.inf
    )
    torch.testing.assert_close(mean, logits.softmax(dim=1) @ rows, rtol=1e-4, atol=1e-5)


def test_what_lies_in_an_empty_place_does_not_matter(operators: Backend) -> None:
    op = operators.op("memory_sums")
    arguments = MemoryCase(40, 16, 30).arguments(operators.device)
    expected = op(*arguments)
    empty = arguments[3] < 0
    arguments[2][empty] = arguments[2][0, 0] * 1e3
    for x, y in zip(op(*arguments), expected, strict=True):
        assert torch.equal(x, y)


def test_the_number_of_an_anchor_decides_which_pairs_it_keeps(operators: Backend) -> None:
    op = operators.op("memory_sums")
    a, y, bank, labels, *how, _first, _mined, _seed, wants = MemoryCase(41, 16, 30, filled="all").arguments(
        operators.device
    )
    mined = torch.tensor([[-2.0], [2.0], [0.5], [0.5]], device=operators.device).repeat(1, 41)
    seed = torch.tensor(3, device=operators.device)
    whole, _ = op(a, y, bank, labels, *how, 100, mined, seed, wants)
    rest, _ = op(a[20:], y[20:], bank, labels, *how, 120, mined[:, 20:].contiguous(), seed, wants)
    other, _ = op(a[20:], y[20:], bank, labels, *how, 0, mined[:, 20:].contiguous(), seed, wants)
    torch.testing.assert_close(rest, whole[20:], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(other, whole[20:], rtol=1e-3, atol=1e-3)
