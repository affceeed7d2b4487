"""What mining_thresholds means, on cosines that one can count."""

import pytest
import torch
from harness.tested_backends import Backend
from torch import Tensor

from fastpixcon.values import BankRows, Rows

INFINITY = float("inf")


def on_a_circle(degrees: Tensor) -> Tensor:
    return torch.stack([torch.cos(torch.deg2rad(degrees)), torch.sin(torch.deg2rad(degrees))], dim=1)


def mined(operators: Backend, negatives: str, positives: str, fraction: float, keep: list[int]) -> Tensor:
    """Of one anchor at 0 degrees: ten positives at 1, 2 .. 10 and twenty negatives at 20, 25 .. 115 degrees."""
    op = operators.of_values("mining_thresholds")
    degrees = torch.cat([torch.arange(1.0, 11.0), torch.arange(20.0, 120.0, 5.0)])
    labels = torch.tensor([0] * 10 + [1, 2] * 10)
    anchor, label = on_a_circle(torch.zeros(1)), torch.zeros(1, dtype=torch.int64)
    x, y, contrast, z = (x.to(operators.device) for x in (anchor, label, on_a_circle(degrees), labels))
    return op(Rows(x, y), Rows(contrast, z), None, None, "any", "any", negatives, positives, fraction, keep)[:, 0].cpu()


def kept(row: Tensor) -> tuple[int, int]:
    degrees = torch.cat([torch.arange(1.0, 11.0), torch.arange(20.0, 120.0, 5.0)])
    cosine = torch.cos(torch.deg2rad(degrees))
    return int((cosine[10:] >= row[0] - 1e-6).sum()), int((cosine[:10] <= row[1] + 1e-6).sum())


def test_none_keeps_all(operators: Backend) -> None:
    assert mined(operators, "none", "none", 0.5, [1, 1]).tolist() == [-INFINITY, INFINITY, 1, 1]


def test_hardest_keeps_as_many_as_asked_for(operators: Backend) -> None:
    row = mined(operators, "hardest", "hardest", 0.5, [2, 4])
    assert kept(row)[0] == 4
    assert 2 <= kept(row)[1] <= 3  # cosines of 9 and 10 degrees are three bins apart
    assert row[2:].tolist() == [1, 1]


def test_semi_hard_draws_from_a_fraction(operators: Backend) -> None:
    row = mined(operators, "semi-hard", "none", 0.4, [1, 2])
    assert kept(row)[0] == 8
    assert float(row[2]) == pytest.approx(2 / 8)


def test_random_draws_from_all(operators: Backend) -> None:
    row = mined(operators, "random", "random", 0.4, [5, 50])
    assert row[:2].tolist() == [-INFINITY, INFINITY]
    assert row[2:].tolist() == [1, 0.5]


def test_keeping_more_than_there_are_keeps_all(operators: Backend) -> None:
    row = mined(operators, "hardest", "hardest", 0.5, [100, 100])
    assert kept(row) == (20, 10)


def test_empty_places_of_a_bank_are_not_counted(operators: Backend) -> None:
    op = operators.of_values("mining_thresholds")
    anchor, label = on_a_circle(torch.zeros(1)), torch.zeros(1, dtype=torch.int64)
    bank = on_a_circle(torch.tensor([5.0, 1.0, 30.0, 10.0, 60.0, 20.0])).view(2, 3, 2)
    bank_labels = torch.tensor([[0, -1, 0], [1, 1, -1]], dtype=torch.int32)
    x, y, rows, places = (x.to(operators.device) for x in (anchor, label, bank, bank_labels))
    row = op(Rows(x, y), None, None, BankRows(rows, places), "any", "any", "random", "random", 0.5, [1, 1])[:, 0]
    assert row[2:].tolist() == [0.5, 0.5]


def test_of_no_pairs_nothing_is_kept(operators: Backend) -> None:
    op = operators.of_values("mining_thresholds")
    anchor, label = on_a_circle(torch.zeros(1)).to(operators.device), torch.zeros(1).long().to(operators.device)
    nobody = Rows(anchor[:0], label[:0])
    row = op(Rows(anchor, label), nobody, None, None, "any", "any", "hardest", "semi-hard", 0.5, [1, 1])[:, 0]
    assert row[:2].tolist() == [INFINITY, -INFINITY]
