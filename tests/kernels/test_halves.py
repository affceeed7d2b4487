"""Float32 rows as two float16 halves: what is left of their bits, and losses and gradients that depend on it."""

from typing import Any

import pytest
import torch
from test_conformance import compare, reference, run
from torch import Tensor

pytest.importorskip("triton")
from harness.compiled_triton import INTERPRETING

from fastpixcon.kernels import common, info_nce
from fastpixcon.ops import define
from fastpixcon.testing import InfoNCECase, backward_arguments, float64
from fastpixcon.testing.tolerances import forward_tolerances, gradient_tolerances
from fastpixcon.values import Rows, Rule

pytestmark = pytest.mark.skipif(not INTERPRETING, reason="Triton does not interpret in this process")


def prepared(x: Tensor, kind: str = "unit") -> info_nce.Prepared:
    rule = Rule(torch.tensor(0.1), "negatives", fixed_shift=True, is_sorted=True)
    labels = torch.zeros(len(x), dtype=torch.int32)
    return info_nce.prepare_both(Rows(x, labels), None, rule, kind)[0]


def joined(rows: Tensor) -> Tensor:
    hi, lo = rows.double().unbind(1)  # [N, 2, D]
    return (hi + lo) / 4096


@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-4, 1e-6, 15.0])
def test_22_bits_are_left(size: float) -> None:
    x = torch.randn(40, 19, generator=torch.Generator().manual_seed(3)).clamp(-1, 1) * size
    rows = prepared(x)
    assert (rows.precision, rows.kind, rows.x.shape, rows.D) == ("fp16x3", "halves", (40, 2, 32), 32)
    assert ((joined(rows.x)[:, :19] - x).abs() <= x.abs() * 2.0**-22 + 2.0**-37).all()
    assert (rows.x[:, :, 19:] == 0).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 65504.0, -17.0])
def test_a_row_that_does_not_fit_is_nan(value: float) -> None:
    x = torch.nn.functional.normalize(torch.randn(5, 16))
    x[2, 3] = value
    assert joined(prepared(x).x).isnan().any(1).equal(torch.arange(5) == 2)
    assert prepared(x).x[2, 0].isnan().all()


def test_tf32_allowed_is_one_product_of_float16() -> None:
    x = torch.nn.functional.normalize(torch.randn(5, 16))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        rows = prepared(x)
        word = common.prepared_precision(torch.float32, fixed=False)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert (rows.precision, rows.kind, word) == ("fp16x1", "half", "tf32")
    assert torch.equal(rows.x, x.half())


def test_rows_of_any_norm_stay_as_they_are() -> None:
    rows = prepared(torch.randn(5, 16), "any")
    assert (rows.precision, rows.kind, rows.x.dtype) == ("ieee", "float32", torch.float32)


class Tiny(InfoNCECase):
    """Half of the features are a ten-thousandth of the others."""

    def make_rows(self, y: Tensor, generator: torch.Generator, device: str | torch.device) -> Tensor:
        x = super().make_rows(y, generator, device)
        x[:, ::2] *= 1e-4
        return torch.nn.functional.normalize(x)


class Above(InfoNCECase):
    """Unit rows as sums of another order make them."""

    def make_rows(self, y: Tensor, generator: torch.Generator, device: str | torch.device) -> Tensor:
        return super().make_rows(y, generator, device) * (1 + 4e-7)


class Uneven(InfoNCECase):
    """Weights of contrast rows that are 0 or a million."""

    def make_weights(
        self, count: int, contrast: bool, device: str | torch.device
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        if not contrast:
            return None, None, None
        v = torch.arange(count, device=device) % 3 * 0.5e6
        return v, v.flip(0), None


def both(case: InfoNCECase, d_loss: Tensor | None = None) -> tuple[list[Any], list[Any], list[Any]]:
    """Forwards and backwards of Triton, of the reference, and of the reference in float64; arguments."""
    results, gradients = [], []
    for backend, arguments in (
        ("triton", case.arguments()),
        ("reference", case.arguments()),
        ("reference", float64(case.arguments())),
    ):
        results.append(run(define.OVERLOADS[backend, "info_nce"], arguments))
        given = backward_arguments(case, arguments, results[-1])
        given[0] = given[0] if d_loss is None else d_loss.to(given[0].dtype)
        gradients.append(run(define.OVERLOADS[backend, "info_nce_backward"], given))
    return results, gradients, case.arguments()


CASES = [
    InfoNCECase(40, 16, M=4000, rows="unit", labels="sorted", classes=19),
    InfoNCECase(40, 16, M=3000, denominator="all", temperature=0.025),
    Tiny(100, 64, rows="unit"),
    Tiny(60, 100, M=70, rows="unit", denominator="all"),
    Above(100, 64, rows="unit", labels="one class", denominator="all", temperature=0.025),
    Uneven(100, 32, classes=3),
    Uneven(60, 32, M=70, denominator="all"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{type(case).__name__}-{case}")
def test_as_accurate_as_float32(case: InfoNCECase) -> None:
    results, gradients, arguments = both(case)
    compare("info_nce", results, forward_tolerances(case))
    d_loss = backward_arguments(case, arguments, results[1])[0]
    compare("info_nce_backward", gradients, gradient_tolerances(case, arguments, d_loss))


@pytest.mark.parametrize("M", [None, 130])
def test_small_d_loss_beside_large(M: int | None) -> None:
    """Every anchor's gradient by itself is as exact, where no other anchor has a part in it."""
    case = InfoNCECase(120, 32, M=M, rows="unit")
    d_loss = 10.0 ** -torch.arange(0, 12).repeat_interleave(10)
    _, gradients, arguments = both(case, d_loss)
    compare("info_nce_backward", gradients, gradient_tolerances(case, arguments, d_loss))
    if M is not None:
        actual, _, truth = (each[0].double() for each in gradients)
        assert ((actual - truth).norm(dim=1) <= 1e-5 * truth.norm(dim=1)).all()


def test_d_loss_of_anchors_that_do_not_count_may_be_anything() -> None:
    case = InfoNCECase(60, 32, rows="unit", labels="ignored")
    arguments = case.arguments()
    results = run(reference("info_nce"), arguments)
    given = backward_arguments(case, arguments, results)
    clean = run(define.OVERLOADS["triton", "info_nce_backward"], given)
    given[0] = torch.where(results[-1] > 0, given[0], torch.nan)
    for x, y in zip(clean, run(define.OVERLOADS["triton", "info_nce_backward"], given), strict=True):
        assert torch.equal(x, y)
