"""The rule of accuracy, and what all Cases have in common."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from fastpixcon.ops.define import WIDTHS
from fastpixcon.ops.signature import flat

SMALLEST = torch.finfo(torch.float32).tiny / torch.finfo(torch.float32).eps  # that float32 has all of its digits of
EPS = {dtype: torch.finfo(dtype).eps for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}


class Tolerance(NamedTuple):
    """The norm of an error, of a truth's: ``tol`` of it, or of ``scale`` if that is more, under which it counts as a
    cancelled sum; and of what is rounded to the rows' dtype on the way ``rounding`` of it, or of ``rounded``."""

    tol: float
    scale: float = 0.0
    rounding: float = 0.0
    rounded: float = 0.0

    def of(self, truth: float) -> float:
        return self.tol * max(truth, self.scale) + self.rounding * max(truth, self.rounded)

    def times(self, factor: float) -> "Tolerance":
        return self._replace(tol=factor * self.tol, rounding=factor * self.rounding)


def assert_as_accurate(
    actual: Tensor, reference: Tensor, truth: Tensor, tolerance: Tolerance, *, name: str = "result"
) -> None:
    """``|actual - truth| <= |reference - truth| + tolerance``, in norms.

    Args:
        actual: what the kernel returned.
        reference: what the reference returned on the same arguments, in the same dtype.
        truth: what the reference returned in float64. Where it is not finite, actual must be the same.
        tolerance: of truth's norm, or of the smallest that float32 has all of its digits of.
    """
    error, allowed, more = measured(actual, reference, truth, tolerance, name)
    assert error <= allowed + more, f"{name}: error {error:.3g}, reference {allowed:.3g} + tolerance {more:.3g}"


def measured(
    actual: Tensor, reference: Tensor, truth: Tensor, tolerance: Tolerance, name: str
) -> tuple[float, float, float]:
    """The error, the reference's, and the tolerance, in norms; AssertionError where nothing can be measured."""
    assert actual.shape == reference.shape == truth.shape, f"{name}: shape {actual.shape}, want {truth.shape}"
    assert actual.dtype == reference.dtype, f"{name}: dtype {actual.dtype}, want {reference.dtype}"
    actual, reference, truth = (x.detach().double().cpu() for x in (actual, reference, truth))
    finite = truth.isfinite()
    infinite_alike = torch.equal(actual[~finite], truth[~finite])
    assert infinite_alike, f"{name}: want {truth[~finite].unique()} where it is not finite, got {actual[~finite]}"
    assert actual[finite].isfinite().all(), f"{name}: {int((~actual[finite].isfinite()).sum())} entries are not finite"
    size = max(float(truth[finite].norm()), SMALLEST)
    error, allowed = (float((x - truth)[finite].norm()) for x in (actual, reference))
    return error, allowed, tolerance.of(size)


def float64(arguments: Sequence[Any]) -> list[Any]:
    """The arguments with every floating point tensor in float64: of the reference, the truth."""
    return [x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in arguments]


def leaves(operator: str, *values: Any) -> list[Any]:
    """The arguments of an operator as its schema has them."""
    return flat(values, WIDTHS[operator])


def with_layout(x: Tensor, layout: str) -> Tensor:
    """``x [N, D]`` or ``[B, D, h, w]`` with other strides; the memory between its elements is NaN."""
    if layout == "contiguous":
        return x.contiguous()
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "offset":  # rows begin at odd addresses
        wide = x.new_full((*x.shape[:-1], x.shape[-1] + 3), torch.nan)
        view = wide[..., 1:-2]
    elif layout == "strided":
        wide = x.new_full((*x.shape[:-1], 2 * x.shape[-1]), torch.nan)
        view = wide[..., ::2]
    elif layout == "part":  # every other channel of a channels_last map
        wide = x.new_full((x.shape[0], 2 * x.shape[1], *x.shape[2:]), torch.nan)
        view = wide.contiguous(memory_format=torch.channels_last)[:, ::2]
    else:
        raise ValueError(f"layout: got {layout!r}")
    return view.copy_(x)


@dataclass(frozen=True)
class Case:
    operator: ClassVar[str]

    def __str__(self) -> str:
        """What differs from the defaults."""
        parts = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                parts.append(f"{field.name}={str(value).removeprefix('torch.')}".replace("=True", ""))
        return "-".join(parts)

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32(str(self).encode()))
