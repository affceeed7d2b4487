"""What contrast_sums means: sums over parts of a contrast set add up to the sum over all of it."""

import pytest
import torch
from tested_backends import Backend

from fastpixcon.testing import ContrastCase


@pytest.mark.parametrize("denominator", ["negatives", "all"])
@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_parts_add_up(denominator: str, temperature: float, operators: Backend) -> None:
    op = operators.op("contrast_sums")
    case = ContrastCase(40, 16, M=70, denominator=denominator, temperature=temperature)
    a, y, c, z, *rest = case.arguments(operators.device)
    whole, _ = op(a, y, c, z, *rest)
    parts = [op(a, y, c[part], z[part], *rest)[0] for part in (slice(0, 23), slice(23, 70))]
    torch.testing.assert_close(torch.logaddexp(*parts), whole, rtol=1e-5, atol=1e-5)


def test_self_contrast_is_a_contrast_set_with_a_diagonal(operators: Backend) -> None:
    op = operators.op("contrast_sums")
    case = ContrastCase(50, 16, denominator="all", mined=True)
    a, y, _, _, *how, _, mutual, mined, seed = case.arguments(operators.device)
    own, _ = op(a, y, None, None, *how, None, mutual, mined, seed)
    placed, _ = op(a, y, a.clone(), y.clone(), *how, 0, mutual, mined, seed)
    torch.testing.assert_close(own, placed, rtol=1e-5, atol=1e-5)


def test_mutual_sums_are_those_of_the_roles_exchanged(operators: Backend) -> None:
    op = operators.op("contrast_sums")
    a, y, c, z, *how, _, _, _ = ContrastCase(30, 16, M=45, mutual=True).arguments(operators.device)
    rows, columns = op(a, y, c, z, *how, True, None, None)
    torch.testing.assert_close(columns, op(c, z, a, y, *how, False, None, None)[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rows, op(a, y, c, z, *how, False, None, None)[0], rtol=1e-5, atol=1e-5)


def test_a_share_of_the_pairs_is_kept(operators: Backend) -> None:
    """Of equal cosines the sum counts the kept pairs."""
    op = operators.op("contrast_sums")
    N = 300
    a = torch.zeros(N, 8, device=operators.device)
    a[:, 0] = 1
    y = torch.arange(N, device=operators.device)
    mined = torch.tensor([[-2.0], [2.0], [0.25], [1.0]], device=operators.device).repeat(1, N)
    one = torch.tensor(1.0, device=operators.device)
    counts = []
    for seed in (1, 2):
        seed_ = torch.tensor(seed, device=operators.device)
        log_sum, _ = op(a, y, None, None, one, "negatives", True, True, None, False, mined, seed_)
        counts.append((log_sum - 1).exp())
    expected = 0.25 * (N - 1)
    assert all(abs(float(count.mean()) - expected) < 4 * (expected / N) ** 0.5 for count in counts)
    assert not torch.equal(*counts)
