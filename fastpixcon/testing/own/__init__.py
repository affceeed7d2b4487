"""A user's own loss against the reference in float64, over the Cases of info_nce."""

from collections.abc import Sequence

import torch

from fastpixcon.functional.rows import DENOMINATORS
from fastpixcon.ops import checks
from fastpixcon.testing.info_nce import InfoNCECase, info_nce_cases
from fastpixcon.testing.own.judge import Loss, judge
from fastpixcon.testing.own.problems import FEATURES, Claims, pose
from fastpixcon.testing.own.report import Judged, Report
from fastpixcon.testing.own.smallest import smallest

__all__ = ["DTYPES", "FEATURES", "Report", "check"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGE = 20_000  # numbers, more than which take long to make fewer


def check(
    loss: object,
    *,
    denominators: Sequence[str] = ("negatives",),
    dtypes: Sequence[torch.dtype] = DTYPES,
    normalize: bool = True,
    temperature: float | None = None,
    temperature_gradient: bool = False,
    without: Sequence[str] = (),
    strict: bool = False,
    device: str | torch.device = "cpu",
    cases: Sequence[InfoNCECase] | None = None,
    raises: bool = True,
    name: str = "",
) -> Report:
    """Compare a supervised contrastive loss and its gradients with the reference in float64.

    ``loss(anchors, labels)`` gets rows [N, D] that want a gradient, in a dtype of ``dtypes``, and labels [N], int64 or
    int32; by name, of these, what it has parameters for: ``contrast`` [M, D] and ``contrast_labels`` [M], where the
    contrast rows are not the anchors; ``temperature``; ``denominator``. It returns the loss of each anchor, [N], 0
    where that has no positive, or the mean over the anchors that have one, [], 0 where none has: in nats, floating
    point, attached to the graph.

    Every Case of ``CASES["info_nce"]`` without a rule of pairs is put to it under each denominator. A result may be as
    far from float64 as the reference in the dtype of the rows, and by what rounding costs besides
    (``fastpixcon/testing/rounding.py``): in float32 as much as a kernel of this library; in 16 bits as much as PyTorch,
    that rounds the result of each operation. Cases in which that is more than a quarter of a nat are left out.

    Args:
        loss: a function or a module.
        denominators: of "negatives", "all" and "decoupled" those that it computes; one, if it takes no ``denominator``.
        dtypes: of torch.float32, torch.bfloat16 and torch.float16.
        normalize: it normalises its rows; False: it takes them as they are, and gets unit rows and rows of any norm.
        temperature: the only one; has to be given for a loss that takes none. None: those of the Cases.
        temperature_gradient: ``temperature`` is a float32 tensor [] that wants a gradient, which is compared, too.
        without: names of ``FEATURES``, "ignored-labels" or "zero-rows": Cases that have one are left out.
        strict: 16 bits are judged as kernels of this library are: logits and sums in float32, only rows, gradients and
            the weights that these are sums with are rounded.
        device: where the loss runs.
        cases: other Cases than those of ``CASES["info_nce"]``.
        raises: False: a Report of disagreements is returned, too.
        name: of the loss, in the Report; "": its own.

    Returns:
        The :class:`Report`, of which ``agrees`` is the verdict and ``str`` all as text.

    Raises:
        AssertionError: the loss disagrees; the text is the Report.
        TypeError, ValueError: naming the argument.
    """
    asked = Loss(loss)
    claims = _claims(
        asked, tuple(denominators), tuple(dtypes), normalize, temperature, temperature_gradient, tuple(without),
        strict, _device(device),
    )  # fmt: skip
    posed, left_out = pose(info_nce_cases() if cases is None else cases, claims, asked.separate)
    if not posed:
        raise ValueError(f"without: got {list(without)}, with dtypes {list(dtypes)}, which leave no Case, want less")
    judged = [Judged(x, judge(asked, x.problem, claims)) for x in posed]
    report = Report(name or _name_of(loss), judged, left_out, [])
    for found in report.disagreements().values():
        first, finding = min(found, key=lambda x: _cost(x[0]))
        report.smallest.append(smallest(asked, first.posed, finding, claims))
    if raises and not report.agrees:
        raise AssertionError(str(report))
    return report


def _claims(
    loss: Loss,
    denominators: tuple[str, ...],
    dtypes: tuple[torch.dtype, ...],
    normalize: bool,
    temperature: float | None,
    temperature_gradient: bool,
    without: tuple[str, ...],
    strict: bool,
    device: torch.device,
) -> Claims:
    for x in denominators:
        checks.one_of("denominators", x, DENOMINATORS)
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise ValueError(f"dtypes: got {dtype}, want some of {', '.join(map(str, DTYPES))}")
    for x in without:
        checks.one_of("without", x, tuple(FEATURES))
    if len(denominators) != 1 and not (denominators and "denominator" in loss.takes):
        raise ValueError(f"denominators: got {denominators}, want the one that a loss without that argument computes")
    takes = "temperature" in loss.takes
    if not takes and temperature is None:
        raise ValueError("temperature: got None, want the one of a loss that has no argument of that name")
    if not takes and temperature_gradient:
        raise ValueError("temperature_gradient: got True, want a loss that has an argument temperature")
    if temperature is not None:
        checks.temperature_scale(temperature, None)
    return Claims(denominators, dtypes, normalize, temperature, temperature_gradient, strict, without, device)


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # what torch says of a CUDA that it has not
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"device: got {str(device)!r}, want one that is here: {reason}") from None


def _cost(judged: Judged) -> tuple[bool, int, int]:
    """Where to begin: few edges, so that what is left of it shows one defect, and few numbers."""
    edges = sum(FEATURES[name].group == "edge" for name in judged.posed.features)
    numbers = sum(s.x.numel() + len(s.x) for s in judged.posed.problem.sets)
    return numbers > LARGE, edges, numbers


def _name_of(loss: object) -> str:
    return str(getattr(loss, "__qualname__", type(loss).__name__))
