"""What contrast_gradient means: the derivative of the loss that the other steps make."""

import pytest
import torch
from harness.tested_backends import Backend
from torch import Tensor

from fastpixcon.reference.contrast_gradient import contrast_gradient
from fastpixcon.reference.contrast_positives import contrast_positives
from fastpixcon.reference.contrast_sums import contrast_sums
from fastpixcon.testing import ContrastCase
from fastpixcon.values import Statistics


@pytest.mark.parametrize("denominator", ["negatives", "all"])
@pytest.mark.parametrize("M", [None, 70])
def test_of_one_set_it_is_the_backward_of_info_nce(M: int | None, denominator: str, operators: Backend) -> None:
    names = ("info_nce", "contrast_gradient", "info_nce_backward")
    info_nce, gradient, backward = (operators.of_values(x) for x in names)
    case = ContrastCase(50, 16, M=M, denominator=denominator)
    *given, pairs = case.values(operators.device)
    _, *found = info_nce(*given, "unit")
    statistics = Statistics(torch.linspace(-1, 1, 50, device=operators.device), *found)
    mask = [True, True, True]
    actual = gradient(statistics, None, *given, pairs, mask)
    expected = backward(statistics, *given, "unit", mask)
    for x, y in zip(actual, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mined", [False, True])
@pytest.mark.parametrize("denominator", ["negatives", "all"])
def test_reference_is_the_derivative_of_its_forward(denominator: str, mined: bool) -> None:
    """Of the sum of losses over the anchors, for the set of pairs that is kept."""
    case = ContrastCase(12, 5, denominator=denominator, mined=mined, temperature=0.5, classes=3)
    anchors, _, rule, pairs = case.values()
    pairs = pairs._replace(mined=None if pairs.mined is None else pairs.mined.double())

    def steps(x: Tensor, temperature: Tensor) -> tuple[Tensor, ...]:
        given = (anchors._replace(x=x), None, rule._replace(temperature=temperature), pairs)
        log_sum, _ = contrast_sums(*given, False)
        of_each, weight, mass, *_ = contrast_positives(*given, log_sum, None)
        number = mass.clamp(min=1)
        return (of_each / number).sum(), log_sum, weight / number, mass

    x, temperature = anchors.x.double().requires_grad_(), rule.temperature.double().requires_grad_()
    loss, *found = steps(x, temperature)
    expected = torch.autograd.grad(loss, (x, temperature))
    with torch.no_grad():
        statistics = Statistics(torch.ones_like(found[0]), *found)
        given = (anchors._replace(x=x), None, rule._replace(temperature=temperature), pairs)
        actual = contrast_gradient(statistics, None, *given, [True, True, True])
    torch.testing.assert_close(actual[0], expected[0])
    torch.testing.assert_close(actual[2], expected[1])
