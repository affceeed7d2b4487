"""Paths of the Triton kernels that the sizes of the Cases do not take: interpreted, or compiled in the emulator."""

import importlib
from collections.abc import Iterator

import pytest
import torch
from harness import compiled_triton
from harness.compiled_triton import Emulator, launching
from test_conformance import compare, reference, run

from fastpixcon.ops import define
from fastpixcon.testing import InfoNCECase, SelectCase, backward_arguments, float64
from fastpixcon.testing.tolerances import forward_tolerances, gradient_tolerances

pytest.importorskip("triton")


@pytest.fixture(autouse=True)
def kernels_on_the_cpu() -> Iterator[None]:
    why = compiled_triton.missing()
    if compiled_triton.INTERPRETING:
        yield
    elif why is not None:
        pytest.skip(why)
    else:
        with launching(Emulator()):
            yield


def module(operator: str) -> str:
    importlib.import_module(f"fastpixcon.kernels.{operator}")
    return f"fastpixcon.kernels.{operator}"


@pytest.mark.parametrize("slack", [-100.0, 0.0])
def test_draws_with_too_few_candidates_search_the_image(slack: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Always, and about every other time: where the candidates miss some of those kept, all pixels are looked at."""
    monkeypatch.setattr(f"{module('select_anchors')}.SLACK", slack)
    arguments = SelectCase(size=(40, 33), max_views=4).arguments()
    expected = reference("select_anchors")(*arguments)
    for actual, wanted in zip(run(define.OVERLOADS["triton", "select_anchors"], arguments), expected, strict=True):
        assert torch.equal(actual, wanted)


MANY_ROWS = [
    InfoNCECase(400, 64, rows="unit", labels="sorted"),
    InfoNCECase(500, 64, dtype=torch.bfloat16, denominator="all"),
    InfoNCECase(300, 256, dtype=torch.bfloat16, temperature=0.01, classes=3),
]


@pytest.mark.parametrize("case", MANY_ROWS, ids=str)
def test_groups_of_several_blocks(case: InfoNCECase, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with more rows than 127 blocks: a program adds the columns of one block of rows to those of the last."""
    monkeypatch.setattr(f"{module('info_nce')}.MOST_GROUPS", 3)
    results, gradients = [], []
    for backend, arguments in (
        ("triton", case.arguments()),
        ("reference", case.arguments()),
        ("reference", float64(case.arguments())),
    ):
        results.append(run(define.OVERLOADS[backend, "info_nce"], arguments))
        backward = define.OVERLOADS[backend, "info_nce_backward"]
        gradients.append(run(backward, backward_arguments(case, arguments, results[-1])))
    compare("info_nce", results, forward_tolerances(case))
    d_loss = backward_arguments(case, case.arguments(), results[1])[0]
    compare("info_nce_backward", gradients, gradient_tolerances(case, case.arguments(), d_loss))
