"""The operators of a loss over several contrast sets, of every backend, on every Case, against float64."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from harness.tested_backends import Backend
from test_conformance import ODD_THREADS, as_tuple, on_cpu, reference, run
from torch import Tensor

from fastpixcon.ops import define
from fastpixcon.ops.contrast_mean import DIFFERENTIABLE
from fastpixcon.ops.mining_thresholds import BINS
from fastpixcon.reference.info_nce import d_logits
from fastpixcon.reference.memory_rows import MIN_MEAN
from fastpixcon.reference.pairs import batch_pairs, column_pairs
from fastpixcon.testing import (
    CASES,
    ContrastCase,
    ContrastMeanCase,
    EnqueueCase,
    MemoryCase,
    MemoryRowsCase,
    MiningCase,
    Tolerance,
    assert_as_accurate,
    float64,
)
from fastpixcon.testing.memory import mean_lengths
from fastpixcon.testing.rounding import ONE, of_dtype
from fastpixcon.testing.tolerances import rounding_scales


def compare(
    names: tuple[str, ...],
    operator: Callable[..., Any],
    expected_of: Callable[..., Any],
    arguments: list[Any],
    on_device: list[Any],
    tolerances: Sequence[Tolerance],
) -> None:
    """What the operator makes of its arguments, what the reference makes of them, and the truth."""
    results = zip(
        names, run(operator, on_device), as_tuple(expected_of(*arguments)), as_tuple(expected_of(*float64(arguments))),
        tolerances, strict=True,
    )  # fmt: skip
    for name, actual, expected, truth, tolerance in results:
        if actual.is_floating_point():
            assert_as_accurate(actual, expected, truth, tolerance, name=name)
        else:
            assert torch.equal(actual.cpu(), truth), name


def moved(arguments: list[Any], device: str) -> list[Any]:
    return [x.to(device) if isinstance(x, Tensor) else x for x in arguments]


@pytest.mark.parametrize("case", CASES["contrast_sums"], ids=str)
def test_contrast_sums(case: ContrastCase, operators: Backend, threads: Callable[[int], None]) -> None:
    op = operators.op("contrast_sums", case.dtype, case.D)
    threads(ODD_THREADS)
    nats = Tolerance(case.tol, case.N**0.5)
    names = ("log_sum", "column_log_sum")
    arguments = case.arguments()
    compare(names, op, reference("contrast_sums"), arguments, case.arguments(operators.device), (nats, nats))


def positives_arguments(case: ContrastCase) -> list[Any]:
    arguments = case.arguments()
    return case.positives(arguments, reference("contrast_sums")(*arguments))


@pytest.mark.parametrize("case", CASES["contrast_positives"], ids=str)
def test_contrast_positives(case: ContrastCase, operators: Backend, threads: Callable[[int], None]) -> None:
    op = operators.op("contrast_positives", case.dtype, case.D)
    threads(ODD_THREADS)
    arguments = positives_arguments(case)
    names = ("loss", "weight", "mass", "column_loss", "column_weight", "column_mass")
    nats = Tolerance(case.tol, case.N**0.5)
    on_device = moved(arguments, operators.device)
    compare(names, op, reference("contrast_positives"), arguments, on_device, (nats,) * 6)


def gradient_arguments(case: ContrastCase) -> list[Any]:
    arguments = case.arguments()
    sums = reference("contrast_sums")(*arguments)
    return case.gradient(arguments, sums, reference("contrast_positives")(*case.positives(arguments, sums)))


def contrast_rounding(case: ContrastCase, arguments: list[Any]) -> tuple[float, float, float]:
    given = define.OPERATORS["contrast_gradient"].values(float64(arguments))
    anchors, contrast, rule = given["anchors"], given["contrast"], given["rule"]
    these = batch_pairs(anchors, contrast, rule, given["pairs"])
    weights = d_logits(these, rule, given["statistics"])
    if given["columns"] is not None:
        weights = weights + d_logits(column_pairs(anchors, contrast, rule, given["pairs"]), rule, given["columns"]).T
    columns, ones = anchors.x if contrast is None else contrast.x, weights.new_ones(())
    return rounding_scales(weights, contrast is None, anchors.x, columns, (ones, ones), case.temperature)


@pytest.mark.parametrize("case", CASES["contrast_gradient"], ids=str)
def test_contrast_gradient(case: ContrastCase, operators: Backend, threads: Callable[[int], None]) -> None:
    op = operators.op("contrast_gradient", case.dtype, case.D)
    threads(ODD_THREADS)
    arguments = gradient_arguments(case)
    d_losses = [x for x in (arguments[0], arguments[4]) if x is not None]  # of the rows, of the columns
    unit = float(torch.cat(d_losses).double().norm()) / case.temperature
    cancelled, rounding, rounded = (unit, unit, unit / case.temperature), of_dtype(case.dtype), (0.0,) * 3
    if rounding > 0:
        rounded = contrast_rounding(case, arguments)
    tolerances = [Tolerance(case.tol, x, rounding, y) for x, y in zip(cancelled, rounded, strict=True)]
    tolerances[2] = tolerances[2].times(ONE)
    compare(
        ("d_anchors", "d_contrast", "d_temperature"), op, reference("contrast_gradient"), arguments,
        moved(arguments, operators.device), tolerances,
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES["contrast_mean"], ids=str)
def test_contrast_mean(case: ContrastMeanCase, operators: Backend, threads: Callable[[int], None]) -> None:
    op = operators.op("contrast_mean", case.dtype, case.D)
    threads(ODD_THREADS)
    arguments = case.arguments()
    _, share, *_ = reference("contrast_mean")(*float64(arguments))
    weights = case.anchor_weights()
    weight = case.N if weights is None else float(weights.sum())
    value = Tolerance(case.tol, weight * float(share)).times(ONE)
    if case.reduction == "none":
        value = Tolerance(case.tol, 2 * case.scale * case.N**0.5)
    nats, exact = Tolerance(case.tol, case.N**0.5), Tolerance(case.tol)
    pushed = nats.scale / case.temperature
    gradient = Tolerance(case.tol, pushed, of_dtype(case.bank_dtype or case.dtype), pushed)
    compare(
        ("value", "share", "log_sum", "weight", "mass", "memory_gradient"), op, reference("contrast_mean"), arguments,
        case.arguments(operators.device), (value, exact, nats, nats, exact, gradient),
    )  # fmt: skip


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("case", CASES["memory_sums"], ids=str)
def test_memory_sums(case: MemoryCase, wanted: bool, operators: Backend, threads: Callable[[int], None]) -> None:
    op = operators.op("memory_sums", case.dtype, case.D)
    threads(ODD_THREADS)
    arguments = [*case.arguments()[:-1], wanted]
    on_device = moved(arguments, operators.device)
    nats = Tolerance(case.tol, case.N**0.5)
    mean = nats._replace(rounding=of_dtype(case.dtype), rounded=0.1 * nats.scale)
    compare(("log_sum", "mean"), op, reference("memory_sums"), arguments, on_device, (nats, mean))


def memory_positives_arguments(case: MemoryCase) -> list[Any]:
    arguments = case.arguments()
    return case.positives(arguments, reference("memory_sums")(*arguments)[0])


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("case", CASES["memory_positives"], ids=str)
def test_memory_positives(case: MemoryCase, wanted: bool, operators: Backend, threads: Callable[[int], None]) -> None:
    op = operators.op("memory_positives", case.dtype, case.D)
    threads(ODD_THREADS)
    arguments = [*memory_positives_arguments(case)[:-1], wanted]
    nats = Tolerance(case.tol, case.N**0.5)
    pull = nats._replace(rounding=of_dtype(case.dtype), rounded=nats.scale)
    on_device = moved(arguments, operators.device)
    names = ("loss", "weight", "mass", "pull")
    compare(names, op, reference("memory_positives"), arguments, on_device, (nats, nats, nats, pull))


@pytest.mark.parametrize("case", CASES["mining_thresholds"], ids=str)
def test_mining_thresholds(case: MiningCase, operators: Backend, threads: Callable[[int], None]) -> None:
    """At most one bin less strict than by sorting; shares are of the pairs that the threshold lets through."""
    op = operators.op("mining_thresholds", case.dtype, case.D)
    threads(ODD_THREADS)
    (mined,) = on_cpu(list(run(op, case.arguments(operators.device))))
    exact = reference("mining_thresholds")(*float64(case.arguments()))
    assert mined.shape == exact.shape
    assert mined.dtype == torch.float32
    mined = mined.double()
    bin_width = 2 / BINS if operators.name != "reference" else 0
    cosine, positives, negatives = case.pairs()
    for row, sign, those, kind, keep in (
        (0, 1, negatives, case.negatives, case.keep[1]),
        (1, -1, positives, case.positives, case.keep[0]),
    ):
        threshold, exact_threshold, share = sign * mined[row], sign * exact[row], mined[2 + row]
        finite = exact_threshold.isfinite()
        # A kernel may say -inf for the lowest bin: all of them.
        in_lowest = exact_threshold < -1 + bin_width + case.rounding
        same = (threshold == exact_threshold) | ((threshold == -torch.inf) & in_lowest)
        beyond = (exact_threshold - 1).clamp(min=0)  # rows of half precision are a little longer than one
        inside = (threshold <= exact_threshold + case.rounding) & (
            threshold >= exact_threshold - bin_width - beyond - case.rounding
        )
        assert torch.where(finite, inside | same, same).all(), (threshold - exact_threshold)[finite]
        if kind in ("none", "hardest"):
            assert (share == 1).all()
            continue
        surely, perhaps = (
            (those & (sign * cosine >= threshold[:, None] + e)).sum(dim=1).clamp(min=1)
            for e in (case.rounding, -case.rounding)
        )
        assert (share <= (keep / surely).clamp(max=1) + 1e-6).all()
        assert (share >= (keep / perhaps).clamp(max=1) - 1e-6).all()


@pytest.mark.parametrize("case", CASES["memory_rows"], ids=str)
def test_memory_rows(case: MemoryRowsCase, operators: Backend, threads: Callable[[int], None]) -> None:
    """The same pixels on every backend; regions as exact as the means that they are the directions of."""
    op = operators.op("memory_rows", case.dtype)
    threads(ODD_THREADS)
    arguments = case.arguments()
    length = mean_lengths(arguments)
    by_rounding = (length > MIN_MEAN / 2) & (length < 2 * MIN_MEAN)  # [B, K] whether there is a direction

    def comparable(op: Callable[..., Any]) -> Callable[..., Any]:
        def call(*these: Any) -> tuple[Tensor, ...]:
            pixels, pixel_labels, regions, region_labels = (x.cpu() for x in op(*these))
            assert regions.dtype == these[0].dtype
            scale = length.clamp(min=0).masked_fill(by_rounding, 0)[..., None]
            return pixels, pixel_labels, regions.double() * scale, region_labels.masked_fill(by_rounding, -1)

        return call

    rounding, segments = of_dtype(case.dtype), float((length >= 0).sum()) ** 0.5
    pixels = Tolerance(case.tol, rounding=rounding)
    regions, exact = Tolerance(case.region_tol, segments, rounding, segments), Tolerance(0)
    compare(
        ("pixels", "pixel_labels", "regions", "region_labels"), comparable(op), comparable(reference("memory_rows")),
        arguments, case.arguments(operators.device), (pixels, exact, regions, exact),
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES["memory_enqueue_"], ids=str)
def test_memory_enqueue_(case: EnqueueCase, operators: Backend, threads: Callable[[int], None]) -> None:
    """The same bank on every backend, bit for bit, over several batches; here a part of a larger tensor."""
    op = operators.op("memory_enqueue_", case.dtype)
    threads(ODD_THREADS)
    expected = case.arguments()
    actual = moved(case.arguments(), operators.device)
    wide = torch.full((case.K, sum(case.sizes) + 2, case.D), torch.nan, dtype=case.dtype, device=actual[0].device)
    wide[:, 1:-1] = actual[0]
    actual[0] = wide[:, 1:-1]
    for _ in range(3):
        assert reference("memory_enqueue_")(*expected) is None
        assert op(*actual) is None
        for x, y in zip(on_cpu(actual), expected, strict=True):
            assert not isinstance(x, Tensor) or torch.equal(x, y)
    assert wide[:, 0].isnan().all()
    assert wide[:, -1].isnan().all()


FEW_CASES: dict[str, list[Any]] = {
    "contrast_sums": [
        ContrastCase(65, 19, mined=True),
        ContrastCase(33, 16, M=70, diagonal=5, denominator="all", dtype=torch.bfloat16),
        ContrastCase(40, 32, M=17, mutual=True, temperature=0.01),
    ],
    "contrast_mean": [
        ContrastMeanCase(65, 19, S=30, mined=True, tainted=True),
        ContrastMeanCase(33, 64, M=20, S=40, dtype=torch.bfloat16, denominator="all", reduction="none", weighed=True),
        ContrastMeanCase(33, 64, S=40, use_batch=False, labels="sorted", label_dtype=torch.int32, reduction="sum"),
        ContrastMeanCase(33, 64, wants_gradient=False),
    ],
    "memory_sums": [
        MemoryCase(65, 19, 30, mined=True),
        MemoryCase(33, 64, 40, dtype=torch.bfloat16, denominator="all", labels="sorted"),
    ],
    "mining_thresholds": [MiningCase(65, 19, S=30), MiningCase(33, 16, M=50, dtype=torch.bfloat16)],
    "memory_rows": [MemoryRowsCase(), MemoryRowsCase(layout="channels_last", dtype=torch.bfloat16, D=16)],
    "memory_enqueue_": [EnqueueCase(), EnqueueCase(dtype=torch.bfloat16)],
}
FEW_CASES["contrast_positives"] = FEW_CASES["contrast_gradient"] = FEW_CASES["contrast_sums"]
FEW_CASES["memory_positives"] = FEW_CASES["memory_sums"]
CALLS = [(operator, case) for operator, cases in FEW_CASES.items() for case in cases]


def call_arguments(operator: str, case: Any, device: str) -> list[Any]:
    steps = {
        "contrast_positives": positives_arguments,
        "contrast_gradient": gradient_arguments,
        "memory_positives": memory_positives_arguments,
    }
    make = steps.get(operator)
    return moved(case.arguments() if make is None else make(case), device)


@pytest.mark.parametrize(("operator", "case"), CALLS, ids=str)
def test_opcheck(operator: str, case: Any, operators: Backend) -> None:
    arguments = call_arguments(operator, case, operators.device)
    for i in DIFFERENTIABLE if operator == "contrast_mean" and case.wants_gradient else []:
        if arguments[i] is not None:
            arguments[i] = arguments[i].detach().requires_grad_()
    torch.library.opcheck(operators.op(operator), tuple(arguments))


@pytest.mark.parametrize(("operator", "case"), CALLS, ids=str)
def test_fake_kernel_tells_shapes_dtypes_and_strides(operator: str, case: Any, operators: Backend) -> None:
    op = operators.op(operator)
    arguments = call_arguments(operator, case, operators.device)
    real = op(*arguments)
    with torch._subclasses.FakeTensorMode() as mode:
        fake = op(*[mode.from_tensor(x) if isinstance(x, Tensor) else x for x in arguments])
    if real is None:
        assert fake is None
        return
    for actual, expected in zip(as_tuple(real), as_tuple(fake), strict=True):
        assert (actual.shape, actual.dtype, actual.stride()) == (expected.shape, expected.dtype, expected.stride())
        assert actual.device == expected.device


LARGER: list[tuple[str, Any]] = [
    ("contrast_sums", ContrastCase(700, 64, classes=7, mined=True)),
    ("contrast_gradient", ContrastCase(700, 64, classes=7, mined=True, dtype=torch.bfloat16)),
    ("contrast_gradient", ContrastCase(500, 64, M=600, mutual=True)),
    ("contrast_positives", ContrastCase(500, 64, M=600, mutual=True)),
    ("contrast_mean", ContrastMeanCase(300, 64, S=400, mined=True)),
    ("memory_sums", MemoryCase(300, 64, 400, mined=True)),
    ("memory_sums", MemoryCase(300, 64, 400, dtype=torch.bfloat16)),
    ("memory_positives", MemoryCase(300, 64, 400)),
    ("mining_thresholds", MiningCase(300, 64, S=300)),
    ("memory_rows", MemoryRowsCase(B=4, D=64, size=(40, 50))),
]


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize(("operator", "case"), LARGER, ids=str)
def test_two_runs_give_the_same_bits(
    operator: str, case: Any, num_threads: int, operators: Backend, threads: Callable[[int], None]
) -> None:
    if operators.name != "native" and num_threads > 1:
        pytest.skip("threads are the native backend's")
    op = operators.op(operator)
    arguments = call_arguments(operator, case, operators.device)
    threads(num_threads)
    first = as_tuple(op(*arguments))
    for _ in range(3):
        for x, y in zip(first, as_tuple(op(*arguments)), strict=True):
            assert torch.equal(x, y)
