"""A target for each operator: an input by a seed, and what must hold of it.

"case"    a random Case: against the reference in float64, as accurate as the conformance tests want, but for lenient()
"layout"  the same values in other strides: the same result
"values"  NaN, infinities, extreme numbers and labels: of operators on pixels refused where the reference refuses, else
          the same result, and no NaN lost; of losses of raw rows, NaN for the same anchors
"shape"   other shapes, dtypes, types and numbers: a result or an exception
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any
from unittest.mock import patch

import test_conformance as batch
import test_conformance_contrast as sets
import torch
from tested_backends import Backend
from torch import Tensor

from fastpixcon.ops import define
from fastpixcon.testing import assert_as_accurate
from fuzz import spoil
from fuzz.cases import CASES

NATIVE = Backend("native", "cpu")
MODES = ("case", "layout", "values", "shape")
CHECKS: dict[str, Callable[..., None]] = {
    "select_anchors": batch.test_select_anchors,
    "gather_normalize": batch.test_gather_normalize,
    "gather_normalize_backward": batch.test_gather_normalize,
    "info_nce": batch.test_info_nce,
    "info_nce_backward": batch.test_info_nce,
    "contrast_sums": sets.test_contrast_sums,
    "contrast_positives": sets.test_contrast_positives,
    "contrast_gradient": sets.test_contrast_gradient,
    "memory_rows": sets.test_memory_rows,
    "memory_enqueue_": sets.test_memory_enqueue_,
    "memory_sums": sets.test_memory_sums,
    "memory_positives": sets.test_memory_positives,
    "mining_thresholds": sets.test_mining_thresholds,
}
# The reference says what becomes of any values. Of thresholds and sums over what are no unit rows a result is a result.
PIXELS = ("select_anchors", "gather_normalize", "memory_rows", "memory_enqueue_")
# How torch's schemas, its checks and ours refuse arguments; anything else is a finding.
REFUSALS = (ValueError, TypeError, RuntimeError, IndexError, NotImplementedError, MemoryError)


@dataclass(frozen=True)
class Input:
    """``arguments`` are those that the operator is called with; ``good`` those that they were made of."""

    operator: str
    seed: int
    mode: str
    case: Any
    threads: int
    good: list[Any] | None = None
    arguments: list[Any] | None = None

    def __str__(self) -> str:
        return f"{self.operator}, seed {self.seed}: {self.mode}, {self.threads} threads, {self.case!r}"


def make(operator: str, seed: int) -> Input:
    random = Random(f"{operator} {seed}")
    mode, threads = random.choice(MODES), random.choice((1, 2, 2, 3, 5))
    case = CASES[operator](random)
    if mode == "case":
        return Input(operator, seed, mode, case, threads)
    torch.set_num_threads(threads)
    if operator in batch.OUTPUTS or operator == "select_anchors":
        reference = Backend("reference", "cpu")
        good = batch.call_arguments(operator, case, reference)
    else:
        good = sets.call_arguments(operator, case, "cpu")
    change = {"layout": spoil.layouts, "values": spoil.some_values, "shape": spoil.some_shapes}[mode]
    return Input(operator, seed, mode, case, threads, good, change(good, random))


def outcome(backend: str, operator: str, arguments: list[Any]) -> tuple[Tensor, ...] | Exception:
    """What a call returns, for an operator in place what it leaves; or how it refuses."""
    copies = arguments
    if operator.endswith("_"):
        copies = [x.clone(memory_format=torch.preserve_format) if isinstance(x, Tensor) else x for x in arguments]
    try:
        result = define.OVERLOADS[backend, operator](*copies)
    except REFUSALS as error:
        if "INTERNAL ASSERT" in str(error):
            raise AssertionError("an assertion of torch's") from error
        return error
    return tuple(copies[:3]) if result is None else batch.as_tuple(result)


def lenient(actual: Tensor, reference: Tensor, truth: Tensor, tol: float, *, name: str, scale: float = 0.0) -> None:
    """Tolerances are for errors of either sign. A gradient of the temperature is one number, of all pairs, and rows of
    one or two bfloat16 features are the same few over and over, with the same rounding."""
    tol *= 10 if name.endswith("d_temperature") else 2
    assert_as_accurate(actual, reference, truth, tol, scale=scale, name=name)


def check(given: Input) -> None:
    """Raises AssertionError where the operator does what it must not."""
    torch.set_num_threads(given.threads)
    if given.mode == "case":
        more = (
            (True,) if given.operator.startswith("memory_") and given.operator.endswith(("sums", "positives")) else ()
        )
        with patch.object(batch, "assert_as_accurate", lenient), patch.object(sets, "assert_as_accurate", lenient):
            CHECKS[given.operator](given.case, *more, NATIVE, lambda _: None)
        return
    assert given.arguments is not None
    assert given.good is not None
    actual = outcome("native", given.operator, given.arguments)
    if given.mode == "layout":
        expected = outcome("native", given.operator, given.good)
        if isinstance(actual, Exception):
            assert given.operator == "memory_enqueue_", actual
            assert "want a contiguous tensor" in str(actual), actual
            return
        assert not isinstance(expected, Exception), expected
        same(actual, expected)
    elif given.mode == "values":
        against_reference(given, actual)


def against_reference(given: Input, actual: tuple[Tensor, ...] | Exception) -> None:
    raw = given.operator == "info_nce" and given.case.rows == "raw"
    if not raw and given.operator not in PIXELS:
        return
    expected = outcome("reference", given.operator, given.arguments or [])
    if isinstance(expected, Exception) or isinstance(actual, Exception):
        assert type(actual) is type(expected), f"got {actual!r}, want {expected!r}"
    elif raw:
        loss, wanted = actual[0], expected[0]
        assert torch.equal(loss.isnan(), wanted.isnan()), f"got {loss}, want {wanted}"
    elif given.operator == "gather_normalize":
        lost = expected[0].isnan().any(dim=1)  # [N]; of a row that is not finite the contract says no more
        assert torch.equal(actual[0].isnan().any(dim=1), lost), f"rows with a NaN: got {actual[0]}, want {expected[0]}"
        same(tuple(x[~lost] for x in actual), tuple(x[~lost] for x in expected))
    else:
        same(actual, expected)


def same(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Up to the rounding of sums in another order. A row with a NaN has one in both, and says nothing else."""
    for x, y in zip(actual, expected, strict=True):
        if not x.is_floating_point():
            assert torch.equal(x, y), f"got {x}, want {y}"
            continue
        lost = (x.isnan(), y.isnan())
        rows = tuple(nan.any(dim=-1, keepdim=True) if x.dim() > 1 else nan for nan in lost)
        assert torch.equal(*rows), f"NaN in {int(rows[0].sum())} rows, want it in {int(rows[1].sum())}"
        eps = torch.finfo(x.dtype).eps
        x, y = (v.double().masked_fill(rows[1], 0) for v in (x, y))
        largest = float(y.nan_to_num(0, 0, 0).abs().max()) if y.numel() else 0
        torch.testing.assert_close(x, y, rtol=8 * eps, atol=8 * max(eps, 1e-6) * largest)
