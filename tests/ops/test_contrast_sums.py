"""What contrast_sums means: sums over parts of a contrast set add up to the sum over all of it."""

import pytest
import torch
from harness.tested_backends import Backend

from fastpixcon.testing import ContrastCase
from fastpixcon.values import Pairs, Rows, Rule


@pytest.mark.parametrize("denominator", ["negatives", "all"])
@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_parts_add_up(denominator: str, temperature: float, operators: Backend) -> None:
    op = operators.of_values("contrast_sums")
    case = ContrastCase(40, 16, M=70, denominator=denominator, temperature=temperature)
    anchors, contrast, *how = case.values(operators.device)
    assert contrast is not None
    whole, _ = op(anchors, contrast, *how, False)
    halves = [contrast.each(lambda x, part=part: x[part]) for part in (slice(0, 23), slice(23, 70))]
    parts = [op(anchors, half, *how, False)[0] for half in halves]
    torch.testing.assert_close(torch.logaddexp(*parts), whole, rtol=1e-5, atol=1e-5)


def test_self_contrast_is_a_contrast_set_with_a_diagonal(operators: Backend) -> None:
    op = operators.of_values("contrast_sums")
    case = ContrastCase(50, 16, denominator="all", mined=True)
    anchors, _, rule, pairs = case.values(operators.device)
    own, _ = op(anchors, None, rule, pairs, False)
    placed, _ = op(anchors, anchors.each(torch.clone), rule, pairs._replace(diagonal=0), False)
    torch.testing.assert_close(own, placed, rtol=1e-5, atol=1e-5)


def test_mutual_sums_are_those_of_the_roles_exchanged(operators: Backend) -> None:
    op = operators.of_values("contrast_sums")
    anchors, contrast, *how = ContrastCase(30, 16, M=45, mutual=True).values(operators.device)
    rows, columns = op(anchors, contrast, *how, True)
    torch.testing.assert_close(columns, op(contrast, anchors, *how, False)[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rows, op(anchors, contrast, *how, False)[0], rtol=1e-5, atol=1e-5)


def test_a_share_of_the_pairs_is_kept(operators: Backend) -> None:
    """Of equal cosines the sum counts the kept pairs."""
    op = operators.of_values("contrast_sums")
    N = 300
    a = torch.zeros(N, 8, device=operators.device)
    a[:, 0] = 1
    anchors = Rows(a, torch.arange(N, device=operators.device))
    mined = torch.tensor([[-2.0], [2.0], [0.25], [1.0]], device=operators.device).repeat(1, N)
    rule = Rule(torch.tensor(1.0, device=operators.device), "negatives", True, True)
    counts = []
    for seed in (1, 2):
        pairs = Pairs(None, mined, torch.tensor(seed, device=operators.device))
        log_sum, _ = op(anchors, None, rule, pairs, False)
        counts.append((log_sum - 1).exp())
    expected = 0.25 * (N - 1)
    assert all(abs(float(count.mean()) - expected) < 4 * (expected / N) ** 0.5 for count in counts)
    assert not torch.equal(*counts)
