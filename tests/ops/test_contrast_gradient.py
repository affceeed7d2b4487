"""What contrast_gradient means: the derivative of the loss that the other steps make."""

import pytest
import torch
from tested_backends import Backend

from fastpixcon.ops import define
from fastpixcon.reference.contrast_positives import contrast_positives
from fastpixcon.reference.contrast_sums import contrast_sums
from fastpixcon.testing import ContrastCase


@pytest.mark.parametrize("denominator", ["negatives", "all"])
@pytest.mark.parametrize("M", [None, 70])
def test_of_one_set_it_is_the_backward_of_info_nce(M: int | None, denominator: str, operators: Backend) -> None:
    info_nce, gradient, backward = (operators.op(x) for x in ("info_nce", "contrast_gradient", "info_nce_backward"))
    case = ContrastCase(50, 16, M=M, denominator=denominator)
    *sets, _, fixed_shift, is_sorted, _, _, _, _ = case.arguments(operators.device)
    _, *stats = info_nce(*sets, denominator, "unit", fixed_shift, is_sorted)
    d_loss = torch.linspace(-1, 1, 50, device=operators.device)
    mask = [True, True, True]
    known = (denominator, fixed_shift, is_sorted)
    actual = gradient(d_loss, None, *sets, *stats, None, None, None, *known, None, None, None, mask)
    expected = backward(d_loss, *sets, *stats, denominator, "unit", fixed_shift, is_sorted, mask)
    for x, y in zip(actual, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mined", [False, True])
@pytest.mark.parametrize("denominator", ["negatives", "all"])
def test_reference_is_the_derivative_of_its_forward(denominator: str, mined: bool) -> None:
    """Of the sum of losses over the anchors, for the set of pairs that is kept."""
    sums, positives = contrast_sums, contrast_positives  # not operators, which have no derivative
    gradient = define.OVERLOADS["reference", "contrast_gradient"]
    case = ContrastCase(12, 5, denominator=denominator, mined=mined, temperature=0.5, classes=3)
    a, y, _, _, temperature, *how, diagonal, mutual, thresholds, seed = case.arguments()
    a, temperature = a.double().requires_grad_(), temperature.double().requires_grad_()
    thresholds = None if thresholds is None else thresholds.double()

    def loss(a: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
        log_sum, _ = sums(a, y, None, None, temperature, *how, diagonal, mutual, thresholds, seed)
        of_each, _, count, *_ = positives(
            a, y, None, None, temperature, log_sum, None, *how, diagonal, thresholds, seed
        )
        return (of_each / count.clamp(min=1)).sum()

    expected = torch.autograd.grad(loss(a, temperature), (a, temperature))
    with torch.no_grad():
        log_sum, _ = sums(a, y, None, None, temperature, *how, diagonal, mutual, thresholds, seed)
        _, weight, count, *_ = positives(a, y, None, None, temperature, log_sum, None, *how, diagonal, thresholds, seed)
        stats = (log_sum, weight / count.clamp(min=1), count, None, None, None)
        ones = torch.ones_like(log_sum)
        actual = gradient(
            ones, None, a, y, None, None, temperature, *stats, *how, diagonal, thresholds, seed, [True, True, True]
        )
    torch.testing.assert_close(actual[0], expected[0])
    torch.testing.assert_close(actual[2], expected[1])
