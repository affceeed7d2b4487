"""What contrast_positives means: with the sums of one set alone it is info_nce."""

import pytest
import torch
from harness.tested_backends import Backend

from fastpixcon.testing import ContrastCase
from fastpixcon.values import Pairs, Rows, Rule


@pytest.mark.parametrize("denominator", ["negatives", "all"])
@pytest.mark.parametrize("M", [None, 70])
def test_of_one_set_it_is_info_nce(M: int | None, denominator: str, operators: Backend) -> None:
    sums, positives, info_nce = (operators.of_values(x) for x in ("contrast_sums", "contrast_positives", "info_nce"))
    case = ContrastCase(50, 16, M=M, denominator=denominator)
    *given, pairs = case.values(operators.device)
    log_sum, _ = sums(*given, pairs, False)
    loss, weight, mass, *_ = positives(*given, pairs, log_sum, None)
    expected = info_nce(*given, "unit")
    number = mass.clamp(min=1)
    for actual, wanted in zip((loss / number, log_sum, weight / number, mass), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)


def test_a_mined_positive_that_is_not_kept_does_not_count(operators: Backend) -> None:
    op = operators.of_values("contrast_positives")
    a = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [1, 0.1], [0.5, 1], [-1, 0]]), dim=1)
    y = torch.tensor([0, 0, 0, 1])
    mined = torch.tensor([[-2.0], [0.8], [1.0], [1.0]]).repeat(1, 4)  # positives with a cosine up to 0.8
    one, log_sum, seed = torch.tensor(1.0), torch.zeros(4), torch.tensor(0)
    tensors = [x.to(operators.device) for x in (a, y, one, log_sum, mined, seed)]
    a, y, one, log_sum, mined, seed = tensors
    rule, pairs = Rule(one, "negatives", True, False), Pairs(None, mined, seed)
    _, _, mass, *_ = op(Rows(a, y), None, rule, pairs, log_sum, None)
    assert mass.tolist() == [1, 1, 2, 0]
