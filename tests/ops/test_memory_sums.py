"""What memory_sums means: contrast_sums over the rows of a bank that are there, and the mean that they weigh."""

import pytest
import torch
from harness.tested_backends import Backend

from fastpixcon.testing import MemoryCase
from fastpixcon.values import ALL_PAIRS, BankRows, Pairs, Rows, Rule


@pytest.mark.parametrize("denominator", ["negatives", "all"])
@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_it_is_contrast_with_the_filled_places(denominator: str, temperature: float, operators: Backend) -> None:
    memory, contrast = operators.of_values("memory_sums"), operators.of_values("contrast_sums")
    case = MemoryCase(40, 16, 30, denominator=denominator, temperature=temperature)
    anchors, bank, rule, pairs = case.values(operators.device)
    log_sum, mean = memory(anchors, bank, rule, pairs, True)
    filled = bank.labels.flatten() >= 0
    rows, row_labels = bank.x.flatten(0, 1)[filled], bank.labels.flatten()[filled]
    unsorted = rule._replace(is_sorted=False)
    expected, _ = contrast(anchors, Rows(rows, row_labels), unsorted, ALL_PAIRS, False)
    torch.testing.assert_close(log_sum, expected, rtol=1e-5, atol=1e-5)
    logits = (anchors.x @ rows.T / rule.temperature).masked_fill(
        (anchors.labels[:, None] == row_labels) if denominator == "negatives" else torch.zeros((), dtype=torch.bool),
        -torch.inf,
    )
    torch.testing.assert_close(mean, logits.softmax(dim=1) @ rows, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.025, 0.1])
def test_weights_of_any_size_keep_their_bits(temperature: float, operators: Backend) -> None:
    """Every second anchor is far from all rows: its e^s are no more than 1e-17 where those of the next are 1e17."""
    generator = torch.Generator().manual_seed(0)
    D, (K, S) = 40, (3, 30)
    toward = torch.randn(D, generator=generator)
    rows = toward + 0.3 * torch.randn(K, S, D, generator=generator)
    x = torch.tensor([1.0, -1.0]).repeat(20)[:, None] * toward + 0.3 * torch.randn(40, D, generator=generator)
    x, rows = (torch.nn.functional.normalize(each, dim=-1).to(operators.device) for each in (x, rows))
    labels = torch.arange(K, device=operators.device).int()[:, None].expand(K, S).contiguous()
    bank = BankRows(rows, labels, None)
    anchors = Rows(x, torch.full((40,), 7, dtype=torch.int32, device=operators.device))
    rule = Rule(torch.tensor(temperature, device=operators.device), "negatives", True, True, None, "any", "any")
    log_sum, mean = operators.of_values("memory_sums")(anchors, bank, rule, ALL_PAIRS, True)
    logits = x.double() @ rows.double().flatten(0, 1).T / temperature
    assert float(logits.amin()) * temperature < -0.9
    torch.testing.assert_close(log_sum.double(), logits.logsumexp(1), rtol=0, atol=3e-5)
    expected = logits.softmax(1) @ rows.double().flatten(0, 1)
    torch.testing.assert_close(mean.double(), expected, rtol=0, atol=2e-5)


def test_what_lies_in_an_empty_place_does_not_matter(operators: Backend) -> None:
    op = operators.of_values("memory_sums")
    anchors, bank, *how = MemoryCase(40, 16, 30).values(operators.device)
    expected = op(anchors, bank, *how, True)
    bank.x[bank.labels < 0] = bank.x[0, 0] * 1e3
    for x, y in zip(op(anchors, bank, *how, True), expected, strict=True):
        assert torch.equal(x, y)


def test_the_number_of_an_anchor_decides_which_pairs_it_keeps(operators: Backend) -> None:
    op = operators.of_values("memory_sums")
    anchors, bank, rule, _ = MemoryCase(41, 16, 30, filled="all").values(operators.device)
    mined = torch.tensor([[-2.0], [2.0], [0.5], [0.5]], device=operators.device).repeat(1, 41)
    seed = torch.tensor(3, device=operators.device)
    last = anchors.each(lambda x: x[20:])
    whole, _ = op(anchors, bank, rule, Pairs(100, mined, seed), True)
    rest, other = (op(last, bank, rule, Pairs(n, mined[:, 20:].contiguous(), seed), True)[0] for n in (120, 0))
    torch.testing.assert_close(rest, whole[20:], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(other, whole[20:], rtol=1e-3, atol=1e-3)
