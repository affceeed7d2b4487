"""Cases of every operator and the rule of accuracy, shared by the tests and the benchmarks.

A Case makes the arguments of one operator call, as its schema has them: ``case.arguments(device)``; the same ones every
time. A backward takes them from :func:`backward_arguments`. ``CASES`` lists them by operator.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastpixcon.testing.accuracy import Tolerance, assert_as_accurate, float64
from fastpixcon.testing.contrast import ContrastCase, MiningCase, contrast_cases, mining_cases
from fastpixcon.testing.contrast_mean import ContrastMeanCase, contrast_mean_cases
from fastpixcon.testing.info_nce import (
    InfoNCEAtOnceCase,
    InfoNCECase,
    InfoNCEMeanCase,
    info_nce_at_once_cases,
    info_nce_cases,
    info_nce_mean_cases,
)
from fastpixcon.testing.memory import (
    EnqueueCase,
    MemoryCase,
    MemoryRowsCase,
    enqueue_cases,
    memory_cases,
    memory_rows_cases,
)
from fastpixcon.testing.own import Report, check
from fastpixcon.testing.pixel_contrast import PixelContrastCase, pixel_contrast_cases
from fastpixcon.testing.pixels import GatherCase, SelectCase, gather_cases, select_cases

__all__ = [
    "CASES",
    "ContrastCase",
    "ContrastMeanCase",
    "EnqueueCase",
    "GatherCase",
    "InfoNCEAtOnceCase",
    "InfoNCECase",
    "InfoNCEMeanCase",
    "MemoryCase",
    "MemoryRowsCase",
    "MiningCase",
    "PixelContrastCase",
    "Report",
    "SelectCase",
    "Tolerance",
    "assert_as_accurate",
    "backward_arguments",
    "check",
    "float64",
]


def backward_arguments(
    case: InfoNCECase | GatherCase, arguments: Sequence[Any], outputs: Sequence[Tensor]
) -> list[Any]:
    """Arguments of the backward, as autograd gives them, from those of the forward and what that returned."""
    generator = torch.Generator().manual_seed(1)
    first = outputs[0]
    if isinstance(case, GatherCase):
        x, index = arguments
        d_rows = torch.randn(first.shape, generator=generator).to(case.dtype).to(first)
        channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        return [d_rows, *outputs, index, list(x.shape), channels_last]
    d_loss = torch.randn(first.shape, generator=generator).to(first)
    if case.d_loss == "expanded":
        d_loss = d_loss.new_tensor(0.7).expand_as(first)
    return [d_loss, *outputs[1:], *arguments, [True, True, True]]


CASES: dict[str, Sequence[Any]] = {
    "select_anchors": select_cases(),
    "gather_normalize": gather_cases(),
    "info_nce": info_nce_cases(),
    "info_nce_mean": info_nce_mean_cases(),
    "info_nce_at_once": info_nce_at_once_cases(),
    "pixel_contrast": pixel_contrast_cases(),
    "contrast_sums": contrast_cases(),
    "contrast_positives": contrast_cases(),
    "contrast_gradient": contrast_cases(),
    "contrast_mean": contrast_mean_cases(),
    "memory_rows": memory_rows_cases(),
    "memory_enqueue_": enqueue_cases(),
    "memory_sums": memory_cases(),
    "memory_positives": memory_cases(),
    "mining_thresholds": mining_cases(),
}
