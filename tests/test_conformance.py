"""Every operator of every backend by itself, on every Case, against the reference in float64."""

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from harness.tested_backends import Backend
from torch import Tensor

from fastpixcon.ops import define
from fastpixcon.ops.info_nce import DIFFERENTIABLE
from fastpixcon.ops.info_nce_at_once import DIFFERENTIABLE as OF_AT_ONCE
from fastpixcon.ops.info_nce_mean import DIFFERENTIABLE as OF_MEAN
from fastpixcon.ops.pixel_contrast import DIFFERENTIABLE as OF_PIXELS
from fastpixcon.testing import (
    CASES,
    GatherCase,
    InfoNCEAtOnceCase,
    InfoNCECase,
    InfoNCEMeanCase,
    PixelContrastCase,
    SelectCase,
    Tolerance,
    assert_as_accurate,
    backward_arguments,
    float64,
)
from fastpixcon.testing.accuracy import leaves
from fastpixcon.testing.rounding import ONE, of_dtype
from fastpixcon.testing.tolerances import forward_tolerances, gradient_tolerances
from fastpixcon.values import Rows

OUTPUTS = {
    "info_nce": ("loss", "log_sum", "weight", "mass"),
    "info_nce_backward": ("d_anchors", "d_contrast", "d_temperature"),
    "info_nce_mean": ("value", "share", "log_sum", "weight", "mass"),
    "info_nce_at_once": ("value", "mass", "d_anchors", "d_contrast", "d_temperature"),
    "pixel_contrast": (
        "value",
        "mass",
        "index",
        "label",
        "segments",
        "rows",
        "inv_norm",
        "d_rows",
        "d_temperature",
    ),
    "gather_normalize": ("rows", "inv_norm"),
    "gather_normalize_backward": ("d_embeddings",),
}
ODD_THREADS = 3  # more than one, and no divisor of most sizes


def reference(operator: str) -> Callable[..., Any]:
    return define.OVERLOADS["reference", operator]


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def run(op: Callable[..., Any], arguments: list[Any]) -> tuple[Tensor, ...]:
    """The outputs; the inputs must not change."""
    before = [x.clone() if isinstance(x, Tensor) else x for x in arguments]
    outputs = as_tuple(op(*arguments))
    for x, y in zip(before, arguments, strict=True):
        if isinstance(x, Tensor):
            assert torch.equal(x.nan_to_num(7), y.nan_to_num(7)), "an input has changed"
    return outputs


def on_cpu(arguments: list[Any]) -> list[Any]:
    return [x.cpu() if isinstance(x, Tensor) else x for x in arguments]


def compare(operator: str, results: list[tuple[Tensor, ...]], tolerances: Sequence[Tolerance]) -> None:
    """``results``: of the kernel, of the reference, and the truth."""
    for name, tolerance, actual, expected, truth in zip(OUTPUTS[operator], tolerances, *results, strict=True):
        assert_as_accurate(actual, expected, truth, tolerance, name=f"{operator} {name}")


@pytest.mark.parametrize("case", CASES["info_nce"], ids=str)
def test_info_nce(case: InfoNCECase, operators: Backend, threads: Callable[[int], None]) -> None:
    op = operators.op("info_nce", case.dtype, case.D)
    backward = operators.op("info_nce_backward", case.dtype, case.D)
    threads(ODD_THREADS)
    arguments = case.arguments()
    results, gradients = [], []
    for forward_op, backward_op, these in (
        (op, backward, case.arguments(operators.device)),
        (reference("info_nce"), reference("info_nce_backward"), arguments),
        (reference("info_nce"), reference("info_nce_backward"), float64(arguments)),
    ):
        results.append(run(forward_op, these))
        gradients.append(run(backward_op, backward_arguments(case, these, results[-1])))
    compare("info_nce", results, forward_tolerances(case))
    d_loss = backward_arguments(case, arguments, results[1])[0]
    compare("info_nce_backward", gradients, gradient_tolerances(case, arguments, d_loss))


@pytest.mark.parametrize("case", CASES["info_nce_mean"], ids=str)
def test_info_nce_mean(case: InfoNCEMeanCase, operators: Backend, threads: Callable[[int], None]) -> None:
    op = operators.op("info_nce_mean", case.dtype, case.D)
    threads(ODD_THREADS)
    arguments = case.arguments()
    results = [run(op, case.arguments(operators.device))]
    results += [run(reference("info_nce_mean"), these) for these in (arguments, float64(arguments))]
    weights, share = case.anchor_weights(), float(results[2][1])
    weight = float(weights.sum()) if weights is not None else case.N
    value = Tolerance(case.tol, weight * share).times(ONE)
    compare("info_nce_mean", results, [value, Tolerance(case.tol), *forward_tolerances(case)[1:]])


@pytest.mark.parametrize("case", CASES["info_nce_at_once"], ids=str)
def test_info_nce_at_once(case: InfoNCEAtOnceCase, operators: Backend, threads: Callable[[int], None]) -> None:
    op = operators.op("info_nce_at_once", case.dtype, case.D)
    threads(ODD_THREADS)
    arguments = case.arguments()
    results = [run(op, case.arguments(operators.device))]
    results += [run(reference("info_nce_at_once"), these) for these in (arguments, float64(arguments))]
    share = float(run(reference("info_nce_mean"), float64(arguments[:-1]))[1])
    weights = case.anchor_weights()
    d_loss = share * (torch.ones(case.N) if weights is None else weights)
    value = Tolerance(case.tol, float(d_loss.norm(1))).times(ONE)
    gradients = gradient_tolerances(case, arguments[:-4], d_loss)
    compare("info_nce_at_once", results, [value, Tolerance(case.tol), *gradients])


@pytest.mark.parametrize("case", CASES["pixel_contrast"], ids=str)
def test_pixel_contrast(case: PixelContrastCase, operators: Backend, threads: Callable[[int], None]) -> None:
    """The bits of its three operators, each of which is as accurate as its own Cases say."""
    op = operators.op("pixel_contrast", case.dtype, case.D)
    threads(ODD_THREADS)
    arguments = case.arguments(operators.device)
    value, mass, index, label, segments, rows, inv_norm, d_rows, d_temperature = run(op, arguments)
    embeddings, labels, predictions = arguments[:3]
    selected = operators.op("select_anchors")(labels, predictions, *arguments[3:9])
    gathered = operators.op("gather_normalize", case.dtype)(embeddings, selected[0])
    rule = define.OPERATORS["pixel_contrast"].values(arguments)["rule"]
    of_rows = operators.of_values("info_nce_at_once")(
        Rows(gathered[0], selected[1]), None, rule, "unit", None, case.scale, True,
        [True, False, case.learns_temperature],
    )  # fmt: skip
    wanted = (of_rows[0], of_rows[1], selected[0], selected[1], selected[3], *gathered, of_rows[2])
    for name, x, y in zip(
        OUTPUTS["pixel_contrast"], (value, mass, index, label, segments, rows, inv_norm, d_rows), wanted, strict=False
    ):
        assert x.dtype == y.dtype, name
        assert torch.equal(x, y), name
    if case.learns_temperature:
        assert torch.equal(d_temperature, of_rows[4])


@pytest.mark.parametrize("case", CASES["gather_normalize"], ids=str)
def test_gather_normalize(case: GatherCase, operators: Backend, threads: Callable[[int], None]) -> None:
    op, backward = operators.op("gather_normalize", case.dtype), operators.op("gather_normalize_backward", case.dtype)
    threads(ODD_THREADS)
    arguments = case.arguments()
    results, gradients = [], []
    for forward_op, backward_op, these in (
        (op, backward, case.arguments(operators.device)),
        (reference("gather_normalize"), reference("gather_normalize_backward"), arguments),
        (reference("gather_normalize"), reference("gather_normalize_backward"), float64(arguments)),
    ):
        results.append(run(forward_op, these))
        gradients.append(run(backward_op, backward_arguments(case, these, results[-1])))
    rounding = of_dtype(case.dtype)
    compare("gather_normalize", results, [Tolerance(case.tol, rounding=rounding), Tolerance(case.tol)])
    x = case.arguments()[0]
    d_rows, _, inverse, *_ = backward_arguments(case, arguments, results[1])
    scale = float((d_rows.double() * inverse.double()[:, None]).norm())
    compare("gather_normalize_backward", gradients, [Tolerance(case.gradient_tol, scale, rounding, scale)])
    d_embeddings = gradients[0][0]
    channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert d_embeddings.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("case", CASES["select_anchors"], ids=str)
def test_select_anchors(case: SelectCase, operators: Backend, threads: Callable[[int], None]) -> None:
    """Every backend selects the same pixels, and they are what the case asks for."""
    op = operators.op("select_anchors")
    threads(ODD_THREADS)
    arguments = case.arguments()
    expected = reference("select_anchors")(*arguments)
    for actual, wanted in zip(run(op, case.arguments(operators.device)), expected, strict=True):
        assert actual.dtype == wanted.dtype
        assert torch.equal(actual.cpu(), wanted)
    index, label, count, segments = expected
    n = int(count)
    assert 0 <= n <= case.max_samples
    assert (index[:n] >= 0).all()
    assert (label[:n] >= 0).all()
    assert (index[n:] == -1).all()
    assert (label[n:] == -1).all()
    assert len(index[:n].unique()) == n
    order = label[:n].long() * case.B * case.size[0] * case.size[1] + index[:n]
    assert (order.diff() > 0).all()
    assert (segments[0] > 0).equal(label[:n].long().bincount(minlength=segments.shape[1]) > 0)


@pytest.mark.parametrize("seed", range(40))
def test_every_backend_selects_the_same_pixels(seed: int, operators: Backend, threads: Callable[[int], None]) -> None:
    op = operators.op("select_anchors")
    random = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=random))

    threads(draw(1, 5))
    logits = draw(0, 2) > 0
    case = SelectCase(
        B=draw(1, 6),
        size=(draw(1, 40), draw(1, 40)),
        label_size=(draw(1, 90), draw(1, 90)),
        classes=draw(1, 25),
        max_samples=draw(1, 700),
        max_views=draw(1, 30),
        label_dtype=(torch.uint8, torch.int32, torch.int64)[draw(0, 3)],
        predictions=(torch.float32, torch.bfloat16)[draw(0, 2)] if logits else torch.int64,
        right=draw(0, 11) / 10,
        ignored=draw(0, 6) / 10,
        ties=draw(0, 2) > 0,
        seed=draw(-(2**62), 2**62),
    )
    expected = reference("select_anchors")(*case.arguments())
    for actual, wanted in zip(op(*case.arguments(operators.device)), expected, strict=True):
        assert torch.equal(actual.cpu(), wanted), case


FEW_CASES = {
    "select_anchors": [SelectCase(), SelectCase(predictions=torch.float32, layout="channels_last", max_samples=7)],
    "gather_normalize": [
        GatherCase(2, 19, 5, 7, 30),
        GatherCase(2, 16, 5, 7, 30, layout="channels_last", repeated=True),
        GatherCase(2, 16, 5, 7, 30, layout="strided", dtype=torch.bfloat16),
    ],
    "info_nce": [
        InfoNCECase(65, 19),
        InfoNCECase(33, 16, M=70, denominator="all", rows="unit", layout="strided"),
        InfoNCECase(40, 32, M=17, labels="ignored", rows="any", dtype=torch.bfloat16, d_loss="expanded"),
        InfoNCECase(130, 64, labels="sorted", rows="unit", dtype=torch.bfloat16, temperature=0.02),
    ],
    "info_nce_mean": [
        InfoNCEMeanCase(33, 16, M=70, denominator="all", rows="unit", layout="strided"),
        InfoNCEMeanCase(40, 32, labels="ignored", dtype=torch.bfloat16, weighed=False),
    ],
    "info_nce_at_once": [
        InfoNCEAtOnceCase(33, 16, M=70, denominator="all", rows="unit", layout="strided"),
        InfoNCEAtOnceCase(40, 32, M=17, labels="ignored", dtype=torch.bfloat16, weighed=False),
    ],
}
FEW_CASES["pixel_contrast"] = [
    PixelContrastCase(19, SelectCase(predictions=torch.float32)),
    PixelContrastCase(16, dtype=torch.float16, layout="channels_last", denominator="all"),
]
CALLS = [(op, case) for op in FEW_CASES for case in FEW_CASES[op]]
BACKWARD_CALLS = [(f"{op}_backward", case) for op, case in CALLS if f"{op}_backward" in define.OPERATORS]


def call_arguments(operator: str, case: Any, operators: Backend) -> list[Any]:
    arguments = case.arguments(operators.device)
    if not operator.endswith("_backward"):
        return arguments
    outputs = as_tuple(operators.op(case.operator, case.dtype)(*arguments))
    return backward_arguments(case, arguments, outputs)


@pytest.mark.parametrize(("operator", "case"), CALLS + BACKWARD_CALLS, ids=str)
def test_opcheck(operator: str, case: Any, operators: Backend) -> None:
    op = operators.op(operator)
    arguments = call_arguments(operator, case, operators)
    with_gradient = {"info_nce": DIFFERENTIABLE, "info_nce_mean": OF_MEAN, "info_nce_at_once": OF_AT_ONCE}
    with_gradient["pixel_contrast"] = OF_PIXELS
    for i in with_gradient.get(operator, [0] if operator == "gather_normalize" else []):
        if arguments[i] is not None:
            arguments[i] = arguments[i].detach().requires_grad_()
    torch.library.opcheck(op, tuple(arguments))


@pytest.mark.parametrize(("operator", "case"), CALLS + BACKWARD_CALLS, ids=str)
def test_fake_kernel_tells_shapes_dtypes_and_strides(operator: str, case: Any, operators: Backend) -> None:
    op = operators.op(operator)
    arguments = call_arguments(operator, case, operators)
    real = as_tuple(op(*arguments))
    with torch._subclasses.FakeTensorMode() as mode:
        fakes = as_tuple(op(*[mode.from_tensor(x) if isinstance(x, Tensor) else x for x in arguments]))
    for actual, fake in zip(real, fakes, strict=True):
        assert (actual.shape, actual.dtype, actual.stride()) == (fake.shape, fake.dtype, fake.stride())
        assert actual.device == fake.device


@pytest.mark.parametrize(("operator", "case"), BACKWARD_CALLS, ids=str)
def test_a_backward_takes_any_strides(operator: str, case: Any, operators: Backend) -> None:
    """Also of what its forward returned: whoever keeps it may lay it out anew."""
    op = operators.op(operator)
    arguments = call_arguments(operator, case, operators)
    apart = [torch.stack([x, x * 7], dim=-1)[..., 0] if isinstance(x, Tensor) and x.dim() else x for x in arguments]
    for x, y in zip(as_tuple(op(*apart)), as_tuple(op(*arguments)), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


LARGER = [
    InfoNCECase(700, 96, classes=7, rows="unit", labels="sorted"),
    InfoNCECase(700, 96, classes=7, dtype=torch.bfloat16),
    InfoNCECase(900, 64, M=1100, classes=11, dtype=torch.bfloat16),
    InfoNCECase(900, 64, M=300, classes=11, rows="any", denominator="all", temperature=0.01),
    InfoNCEAtOnceCase(900, 64, M=1100, classes=11, labels="sorted"),
    InfoNCEAtOnceCase(900, 64, M=300, classes=11, rows="any", denominator="all", dtype=torch.bfloat16),
    GatherCase(4, 64, 40, 50, 3000, repeated=True),
    GatherCase(4, 64, 40, 50, 3000, dtype=torch.float16, layout="channels_last"),
    SelectCase(B=4, size=(70, 90), max_samples=900, max_views=60),
    PixelContrastCase(64, SelectCase(B=4, size=(70, 90), max_samples=900, max_views=60)),
]


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("case", LARGER, ids=lambda case: f"{case.operator}-{case}")
def test_two_runs_give_the_same_bits(
    case: Any, num_threads: int, operators: Backend, threads: Callable[[int], None]
) -> None:
    if operators.name != "native" and num_threads > 1:
        pytest.skip("threads are the native backend's")
    threads(num_threads)
    names = [case.operator, f"{case.operator}_backward"]
    for operator in [name for name in names if name in define.OPERATORS]:
        op = operators.op(operator)
        arguments = call_arguments(operator, case, operators)
        first = as_tuple(op(*arguments))
        for _ in range(3):
            for x, y in zip(first, as_tuple(op(*arguments)), strict=True):
                assert torch.equal(x, y)


@pytest.mark.parametrize("M", [None, 21])
@pytest.mark.parametrize("mask", [(a, c, t) for a in (False, True) for c in (False, True) for t in (False, True)])
def test_output_mask(mask: tuple[bool, bool, bool], M: int | None, operators: Backend) -> None:
    """What is asked for does not depend on what else is."""
    op = operators.op("info_nce_backward")
    for denominator in ("negatives", "all"):
        case = InfoNCECase(50, 19, M=M, denominator=denominator)
        *arguments, everything = call_arguments("info_nce_backward", case, operators)
        complete = op(*arguments, everything)
        for wanted, x, y in zip(mask, complete, op(*arguments, list(mask)), strict=True):
            if wanted:
                torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("backend", "operator"), list(define.IMPLEMENTATIONS), ids=str)
def test_python_launcher_has_the_arguments_of_the_contract(backend: str, operator: str) -> None:
    module, function = define.IMPLEMENTATIONS[backend, operator].split(":")
    launcher = inspect.signature(getattr(importlib.import_module(module), function))
    assert list(launcher.parameters) == [argument.name for argument in define.OPERATORS[operator].arguments]
    schema = torch._C.parse_schema(f"{operator}{define.OPERATORS[operator].schema}")
    if operator in OUTPUTS:
        assert tuple(x.name for x in schema.returns) == OUTPUTS[operator]


@pytest.mark.parametrize("operator", list(define.OPERATORS))
def test_every_operator_has_a_reference_and_cases(operator: str) -> None:
    assert ("reference", operator) in define.OVERLOADS
    assert CASES[operator.removesuffix("_backward")]


GRADCHECK = [
    InfoNCECase(N=9, D=4, M=M, classes=3, labels=labels, dtype=torch.float64, temperature=0.5, denominator=denominator)
    for M in (None, 7)
    for denominator in ("negatives", "all")
    for labels in ("mixed", "ignored")
]


@pytest.mark.parametrize("rows", ["raw", "any"])
@pytest.mark.parametrize("case", GRADCHECK, ids=str)
def test_gradcheck_info_nce(case: InfoNCECase, rows: str) -> None:
    anchors, contrast = case.sets()
    rule = case.rule()
    op = reference("info_nce")
    inputs = [anchors.x, rule.temperature, *(() if contrast is None else (contrast.x,))]

    def loss(x: Tensor, temperature: Tensor, y: Tensor | None = None) -> Tensor:
        others = None if contrast is None else contrast._replace(x=y)
        return op(*leaves("info_nce", anchors._replace(x=x), others, rule._replace(temperature=temperature), rows))[0]

    inputs = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_gradcheck_gather_normalize(layout: str) -> None:
    case = GatherCase(2, 3, 3, 2, 9, dtype=torch.float64, layout=layout, repeated=True)
    x, index = case.arguments()
    assert torch.autograd.gradcheck(lambda x: reference("gather_normalize")(x, index)[0], [x.requires_grad_()])
