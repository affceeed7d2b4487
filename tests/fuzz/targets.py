"""A target for each operator: an input by a seed, and what must hold of it.

"case"    a random Case: against the reference in float64, as accurate as the conformance tests want, but for lenient()
"layout"  the same values in other strides: the same result
"values"  NaN, infinities, extreme numbers and labels: refused where the reference refuses; of operators on pixels the
          same result, and no NaN lost; of losses over one contrast set or several, NaN for the same anchors
"shape"   other shapes, dtypes, types and numbers: a result or an exception
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any
from unittest.mock import patch

import test_conformance as batch
import test_conformance_contrast as sets
import torch
from harness.tested_backends import Backend
from torch import Tensor

from fastpixcon.ops import define
from fastpixcon.reference.memory_rows import MIN_MEAN
from fastpixcon.testing import Tolerance, assert_as_accurate
from fastpixcon.testing.memory import mean_lengths
from fuzz import spoil
from fuzz.cases import CASES, ruled

backend = Backend("native", "cpu")  # or what the command says
MODES = ("case", "layout", "values", "shape")
CHECKS: dict[str, Callable[..., None]] = {
    "select_anchors": batch.test_select_anchors,
    "gather_normalize": batch.test_gather_normalize,
    "gather_normalize_backward": batch.test_gather_normalize,
    "info_nce": batch.test_info_nce,
    "info_nce_backward": batch.test_info_nce,
    "info_nce_mean": batch.test_info_nce_mean,
    "info_nce_at_once": batch.test_info_nce_at_once,
    "pixel_contrast": batch.test_pixel_contrast,
    "contrast_sums": sets.test_contrast_sums,
    "contrast_positives": sets.test_contrast_positives,
    "contrast_gradient": sets.test_contrast_gradient,
    "contrast_mean": sets.test_contrast_mean,
    "memory_rows": sets.test_memory_rows,
    "memory_enqueue_": sets.test_memory_enqueue_,
    "memory_sums": sets.test_memory_sums,
    "memory_positives": sets.test_memory_positives,
    "mining_thresholds": sets.test_mining_thresholds,
}
# The reference says what becomes of any values. Of thresholds and gradients a result is a result.
PIXELS = ("select_anchors", "gather_normalize", "memory_rows", "memory_enqueue_")
LOSSES = ("info_nce", "contrast_sums", "contrast_positives", "memory_sums", "memory_positives")
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


def checked_values(operator: str, arguments: list[Any]) -> frozenset[int]:
    """Weights are finite and not negative, and where class weights are looked up by labels, those have a row."""
    names = [leaf.name for leaf in define.OPERATORS[operator].leaves]
    given = [name for name, x in zip(names, arguments, strict=True) if x is not None]
    ends = ("weights", "mass", "labels") if "class_weights" in given else ("weights", "mass")
    return frozenset(k for k, name in enumerate(names) if name.endswith(ends))


def make(operator: str, seed: int, rules: bool = True) -> Input:
    """``rules``: of pairs; those that failed once had none."""
    random = Random(f"{operator} {seed}")
    mode, threads = random.choice(MODES), random.choice((1, 2, 2, 3, 5))
    case = CASES[operator](random)
    if rules:  # drawn by themselves, so that other inputs are the same without
        case = ruled(case, Random(f"{operator} {seed} rule"))
    if mode == "case":
        return Input(operator, seed, mode, case, threads)
    torch.set_num_threads(threads)
    if operator in batch.OUTPUTS or operator == "select_anchors":
        reference = Backend("reference", "cpu")
        good = batch.call_arguments(operator, case, reference)
    else:
        good = sets.call_arguments(operator, case, "cpu")
    some_values = partial(spoil.some_values, spared=checked_values(operator, good))
    changes: dict[str, Callable[..., list[Any]]] = {
        "layout": spoil.layouts, "values": some_values, "shape": spoil.some_shapes,
    }  # fmt: skip
    return Input(operator, seed, mode, case, threads, good, changes[mode](good, random))


def outcome(of: str, operator: str, arguments: list[Any]) -> tuple[Tensor, ...] | Exception:
    """What a call returns, for an operator in place what it leaves; or how it refuses."""
    copies = arguments
    if operator.endswith("_"):
        copies = [x.clone(memory_format=torch.preserve_format) if isinstance(x, Tensor) else x for x in arguments]
    try:
        result = define.OVERLOADS[of, operator](*copies)
    except REFUSALS as error:
        if "INTERNAL ASSERT" in str(error):
            raise AssertionError("an assertion of torch's") from error
        return error
    return tuple(copies[:3]) if result is None else batch.as_tuple(result)


def lenient(actual: Tensor, reference: Tensor, truth: Tensor, tolerance: Tolerance, *, name: str) -> None:
    """Tolerances are of errors as they mostly are; of so many inputs some have twice as much."""
    assert_as_accurate(actual, reference, truth, tolerance.times(2), name=name)


def check(given: Input) -> bool:
    """Raises AssertionError where the operator does what it must not; False of an input that is left out."""
    torch.set_num_threads(given.threads)
    if given.mode == "case":
        more = (
            (True,) if given.operator.startswith("memory_") and given.operator.endswith(("sums", "positives")) else ()
        )
        with patch.object(batch, "assert_as_accurate", lenient), patch.object(sets, "assert_as_accurate", lenient):
            CHECKS[given.operator](given.case, *more, backend, lambda _: None)
        return True
    assert given.arguments is not None
    assert given.good is not None
    if str(backend) != "native-cpu" and refused(given):
        return False
    actual = outcome(backend.name, given.operator, given.arguments)
    if given.mode == "layout":
        expected = outcome(backend.name, given.operator, given.good)
        if isinstance(actual, Exception):
            assert given.operator == "memory_enqueue_", actual
            assert "want a contiguous tensor" in str(actual), actual
            return True
        assert not isinstance(expected, Exception), expected
        same_results(given, actual, expected)
    elif given.mode == "values":
        against_reference(given, actual)
    return True


def refused(given: Input) -> bool:
    """What is an assertion on a GPU, and other shapes: the launchers of Triton take what functional.py has checked."""
    return given.mode == "shape" or isinstance(outcome("reference", given.operator, given.arguments or []), Exception)


def against_reference(given: Input, actual: tuple[Tensor, ...] | Exception) -> None:
    if given.operator not in PIXELS + LOSSES:
        return
    expected = outcome("reference", given.operator, given.arguments or [])
    if isinstance(expected, Exception) or isinstance(actual, Exception):
        assert type(actual) is type(expected), f"got {actual!r}, want {expected!r}"
    elif given.operator in LOSSES:
        if of_unit_rows(given):
            for loss, wanted in zip(actual, expected, strict=True):
                got, want = (x.isnan().any(dim=1) if x.dim() > 1 else x.isnan() for x in (loss, wanted))
                assert torch.equal(got, want), f"got {loss}, want {wanted}"
    elif given.operator == "gather_normalize":
        lost = expected[0].isnan().any(dim=1)  # [N]; of a row that is not finite the contract says no more
        assert torch.equal(actual[0].isnan().any(dim=1), lost), f"rows with a NaN: got {actual[0]}, want {expected[0]}"
        same(tuple(x[~lost] for x in actual), tuple(x[~lost] for x in expected))
    else:
        same_results(given, actual, expected)


def of_unit_rows(given: Input) -> bool:
    """Where the contract says which results are NaN: where what is finite is of unit rows, or of rows that are
    normalised in the operator, or whose logits do not overflow. A bank is finite."""
    if given.operator == "info_nce" and given.case.rows == "raw":
        return True
    assert given.arguments is not None
    assert given.good is not None
    most = 1e6 if given.operator == "info_nce" and given.case.rows == "any" else 1.1
    for number, (x, good) in enumerate(zip(given.arguments, given.good, strict=True)):
        if isinstance(x, Tensor) and x.is_floating_point() and x.dim() > 1 and x.shape == good.shape:
            is_mined = x.dim() == 2 and x.shape[0] == 4 and number > 5
            if not is_mined and bool((x[x.isfinite()].abs() > most).any()):
                return False
            if x.dim() == 3 and not bool(x.isfinite().all()):
                return False
    return True


def same_results(given: Input, actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Of memory_rows the regions as long as their means, of which they are the directions, and nothing of means that
    are hardly long enough to have one."""
    if given.operator != "memory_rows":
        return same(actual, expected)
    assert given.arguments is not None
    length = mean_lengths(given.arguments)  # [B, K]
    by_rounding = (length > MIN_MEAN / 2) & (length < 2 * MIN_MEAN)
    scale = torch.where(length.isnan(), 1, length.clamp(min=0)).masked_fill(by_rounding, 0)[..., None]

    def comparable(pixels: Tensor, pixel_labels: Tensor, regions: Tensor, region_labels: Tensor) -> tuple[Tensor, ...]:
        scaled = (regions.double() * scale).to(regions.dtype)
        return pixels, pixel_labels, scaled, region_labels.masked_fill(by_rounding, -1)

    return same(comparable(*actual), comparable(*expected), scale=1.0)


def same(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...], scale: float = 0.0) -> None:
    """Up to the rounding of sums in another order, of terms as large as the largest result or ``scale``. A row with a
    NaN has one in both, and says nothing else."""
    for x, y in zip(actual, expected, strict=True):
        if not x.is_floating_point():
            assert torch.equal(x, y), f"got {x}, want {y}"
            continue
        lost = (x.isnan(), y.isnan())
        rows = tuple(nan.any(dim=-1, keepdim=True) if x.dim() > 1 else nan for nan in lost)
        assert torch.equal(*rows), f"NaN in {int(rows[0].sum())} rows, want it in {int(rows[1].sum())}"
        eps = torch.finfo(x.dtype).eps
        x, y = (v.double().masked_fill(rows[1], 0) for v in (x, y))
        largest = max(scale, float(y.nan_to_num(0, 0, 0).abs().max()) if y.numel() else 0)
        torch.testing.assert_close(x, y, rtol=8 * eps, atol=8 * max(eps, 1e-6) * largest)
