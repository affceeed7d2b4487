"""What contrast_positives means: with the sums of one set alone it is info_nce."""

import pytest
import torch
from tested_backends import Backend

from fastpixcon.testing import ContrastCase


@pytest.mark.parametrize("denominator", ["negatives", "all"])
@pytest.mark.parametrize("M", [None, 70])
def test_of_one_set_it_is_info_nce(M: int | None, denominator: str, operators: Backend) -> None:
    sums, positives, info_nce = (operators.op(x) for x in ("contrast_sums", "contrast_positives", "info_nce"))
    case = ContrastCase(50, 16, M=M, denominator=denominator)
    *sets, _, fixed_shift, is_sorted, _, _, _, _ = case.arguments(operators.device)
    known = (denominator, fixed_shift, is_sorted)
    log_sum, _ = sums(*sets, *known, None, False, None, None)
    loss, weight, count, *_ = positives(*sets, log_sum, None, *known, None, None, None)
    expected = info_nce(*sets, denominator, "unit", fixed_shift, is_sorted)
    number = count.clamp(min=1)
    for actual, wanted in zip((loss / number, log_sum, weight / number, count), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)


def test_a_mined_positive_that_is_not_kept_does_not_count(operators: Backend) -> None:
    op = operators.op("contrast_positives")
    a = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [1, 0.1], [0.5, 1], [-1, 0]]), dim=1)
    y = torch.tensor([0, 0, 0, 1])
    mined = torch.tensor([[-2.0], [0.8], [1.0], [1.0]]).repeat(1, 4)  # positives with a cosine up to 0.8
    one, log_sum, seed = torch.tensor(1.0), torch.zeros(4), torch.tensor(0)
    tensors = [x.to(operators.device) for x in (a, y, one, log_sum, mined, seed)]
    a, y, one, log_sum, mined, seed = tensors
    _, _, count, *_ = op(a, y, None, None, one, log_sum, None, "negatives", True, False, None, mined, seed)
    assert count.tolist() == [1, 1, 2, 0]
