"""One Problem put to a user's loss: the loss and its gradients against the reference in float64."""

import inspect
import math
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastpixcon.functional import info_nce
from fastpixcon.testing.accuracy import SMALLEST, Tolerance, measured
from fastpixcon.testing.own.problems import Claims, Problem
from fastpixcon.testing.rounding import of_dtype
from fastpixcon.testing.tolerances import eager_tol, eager_tolerances, gradient_tolerances

OFF, NOT_FINITE, NO_GRADIENT = "is off", "is not finite", "is not attached to the graph"
NAMED = ("contrast", "contrast_labels", "temperature", "denominator", "normalize")  # arguments that go by name
D_LOSS = 0.7
QUANTITIES = ("loss", "d_anchors", "d_contrast", "d_temperature")


class Finding(NamedTuple):
    what: str  # one of QUANTITIES
    error: float  # over what is allowed; inf where there is none
    kind: str = ""  # "" where it agrees
    text: str = ""
    got: Tensor | None = None
    want: Tensor | None = None
    d_loss: Tensor | None = None  # that the backward began with; None: it was not reached

    @property
    def key(self) -> tuple[str, str]:
        return self.what, self.kind


class Loss:
    """A user's loss and which of our arguments it takes, by their names.

    Raises:
        TypeError: it is no function of rows and labels.
    """

    def __init__(self, function: object) -> None:
        if not callable(function) or isinstance(function, type):
            got = f"the class {function.__name__}" if isinstance(function, type) else type(function).__name__
            raise TypeError(f"loss: got {got}, want a function of rows [N, D] and labels [N]")
        self.function: Callable[..., Any] = function
        looked_at = function.forward if isinstance(function, torch.nn.Module) else function
        try:
            parameters = inspect.signature(looked_at).parameters.values()
        except ValueError:
            raise TypeError(f"loss: got {function!r}, which has no signature, want a function in Python") from None
        anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
        names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        self.takes = {name for name in NAMED if anything or name in names}
        given = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        rows = [p.name for p in given if p.name not in self.takes]
        if len(rows) < 2 and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            raise TypeError(f"loss: got a function of ({', '.join(rows)}), want one of rows [N, D] and labels [N]")

    @property
    def separate(self) -> bool:
        return {"contrast", "contrast_labels"} <= self.takes

    def __call__(self, rows: Sequence[Tensor], labels: Sequence[Tensor], others: dict[str, Any]) -> Any:
        if len(rows) == 2:
            others = others | {"contrast": rows[1], "contrast_labels": labels[1]}
        return self.function(rows[0], labels[0], **{k: x for k, x in others.items() if k in self.takes})


def d_loss_of(problem: Problem, loss: Tensor) -> Tensor:
    """The gradient that a backward begins with, [N] or [], on the CPU: about one of each anchor, as if a GradScaler had
    scaled the mean, whose gradients float16 would lose."""
    if loss.dim() == 1 and problem.case.d_loss == "random":
        return torch.randn(loss.shape, generator=torch.Generator().manual_seed(1)).to(loss.dtype)
    return torch.tensor(D_LOSS if loss.dim() else D_LOSS * problem.case.N, dtype=loss.dtype).expand(loss.shape)


def judge(loss: Loss, problem: Problem, claims: Claims) -> list[Finding]:
    """Of what was computed, a Finding each; of a loss that failed one."""
    case, device = problem.case, claims.device
    rows = problem.leaves(device)
    labels = [s.labels.to(device) for s in problem.sets]
    before = [x.clone() for x in labels]
    temperature: Any = case.temperature
    if claims.temperature_gradient:
        temperature = torch.tensor(temperature, device=device, requires_grad=True)
    wanted = [*rows, *([temperature] if claims.temperature_gradient else [])]
    try:
        rule = {"temperature": temperature, "denominator": case.denominator, "normalize": claims.normalize}
        actual = loss(rows, labels, rule)
        wrong = no_loss(actual, case.N)
        if wrong:
            return [Finding("loss", math.inf, *wrong)]
        if not actual.requires_grad:
            return [Finding("loss", math.inf, NO_GRADIENT, "it has no grad_fn: backward would raise")]
        d_loss = d_loss_of(problem, actual)
        gradients = torch.autograd.grad(actual, wanted, d_loss.to(device), allow_unused=True)
    except Exception as error:  # whatever a user's loss raises is a finding, with its kind and place
        return [Finding("loss", math.inf, f"raises {type(error).__name__}", _where(error))]
    if any(not torch.equal(x, y) for x, y in zip(before, labels, strict=True)):
        return [Finding("loss", math.inf, "changes its labels", "want them as they were")]
    found = dict(zip(_names(problem, claims), gradients, strict=True))
    reference, truth = (_expected(problem, claims, dtype, d_loss) for dtype in (case.dtype, torch.float64))
    tolerances = _tolerances(problem, claims, actual, d_loss)
    findings = [_compare("loss", actual.to(reference["loss"].dtype), reference, truth, tolerances)]
    for name, gradient in found.items():  # None: of none of what was computed, so zeros
        value = torch.zeros_like(reference[name]) if gradient is None else gradient
        findings.append(_compare(name, value, reference, truth, tolerances))
    return [x._replace(d_loss=d_loss) for x in findings]


def first(findings: Sequence[Finding]) -> Finding | None:
    """The disagreement that others follow from: gradients of a wrong loss are wrong."""
    return next((x for x in findings if x.kind), None)


def _names(problem: Problem, claims: Claims) -> list[str]:
    both = ["d_anchors"] if problem.contrast is None else ["d_anchors", "d_contrast"]
    return [*both, *(["d_temperature"] if claims.temperature_gradient else [])]


def no_loss(actual: object, N: int) -> tuple[str, str] | None:
    """Kind and text of what is no loss; None of a loss."""
    want = f"want a floating point tensor [] or [{N}]"
    if not isinstance(actual, Tensor):
        return f"is {type(actual).__name__}", want
    if not actual.is_floating_point():
        return f"is {actual.dtype}", want
    if actual.shape not in ((), (N,)):
        return "has another shape", f"got {list(actual.shape)}, {want}"
    return None


def _where(error: Exception) -> str:
    """Message and place, in one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).split())
    return f"{message[:200]} ({place.filename.rpartition('/')[2]}:{place.lineno})"


def _expected(problem: Problem, claims: Claims, dtype: torch.dtype, d_loss: Tensor) -> dict[str, Tensor]:
    """What the reference computes in a dtype."""
    case = problem.case
    rows = [s.x.detach().to(dtype).requires_grad_() for s in problem.sets]
    temperature: Any = case.temperature
    if claims.temperature_gradient:  # as it came to the loss
        temperature = torch.tensor(temperature).to(torch.float64 if dtype == torch.float64 else torch.float32)
        temperature.requires_grad_()
    loss = info_nce(
        rows[0],
        problem.anchors.labels,
        *((rows[1], problem.sets[1].labels) if problem.contrast is not None else ()),
        temperature=temperature,
        denominator=case.denominator,
        normalize=claims.normalize,
        reduction="none" if d_loss.dim() else "mean",
        backend="reference",
    )
    wanted = [*rows, *([temperature] if claims.temperature_gradient else [])]
    gradients = torch.autograd.grad(loss, wanted, d_loss.to(loss.dtype))
    return {"loss": loss.detach(), **dict(zip(_names(problem, claims), gradients, strict=True))}


def _tolerances(problem: Problem, claims: Claims, actual: Tensor, d_loss: Tensor) -> dict[str, Tolerance]:
    case = problem.case
    eager = not claims.strict
    of_each = d_loss  # [N]
    if d_loss.dim() == 0:
        has = problem.has_positive()
        of_each = d_loss * has / has.sum().clamp(min=1)
    of_loss = Tolerance(
        eager_tol(case) if eager else case.tol, case.N**0.5 if actual.dim() else 1.0, of_dtype(actual.dtype)
    )
    *of_rows, of_temperature = (eager_tolerances if eager else gradient_tolerances)(case, problem.arguments, of_each)
    alike = float(of_each.double().abs().sum() / of_each.double().norm().clamp(min=SMALLEST))
    of_temperature = of_temperature._replace(scale=of_temperature.scale * alike)  # errors of rows alike add up
    return dict(zip(QUANTITIES, [of_loss, *of_rows, of_temperature], strict=True))


def _compare(
    name: str,
    actual: Tensor,
    reference: dict[str, Tensor],
    truth: dict[str, Tensor],
    tolerances: dict[str, Tolerance],
) -> Finding:
    got, want = actual.detach().cpu(), truth[name]
    try:
        error, of_reference, more = measured(got, reference[name], want, tolerances[name], name)
    except AssertionError as problem:
        return Finding(name, math.inf, NOT_FINITE, str(problem).removeprefix(f"{name}: "), got, want)
    allowed = of_reference + more
    kind = "" if error <= allowed else OFF
    return Finding(name, error / allowed, kind, f"error {error:.3g}, allowed {allowed:.3g}" if kind else "", got, want)
