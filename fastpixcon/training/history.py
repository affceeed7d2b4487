"""What an arm did, read from the device now and then, and whether it is finite."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastpixcon.training.processes import Processes


class Diverged(Exception):  # noqa: N818
    """An arm's loss, or what it made of the weights, is no number any more; the checkpoint before is kept.

    Args:
        iteration: the first in which that showed, from 1 on.
        what: in words.
    """

    def __init__(self, iteration: int, what: str) -> None:
        super().__init__(f"iteration {iteration}: {what}")
        self.iteration, self.what = iteration, what


@dataclass
class History:
    """What an arm did, one entry per iteration or per evaluation."""

    cross_entropy: list[float] = field(default_factory=list)
    contrast: list[float | None] = field(default_factory=list)  # None: not computed, during the warm-up or at all
    # iteration, and what evaluation.evaluate gives; the confusion of the last alone
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    contrasted: list[dict[str, Any]] = field(default_factory=list)  # what took part, of participation.Participation
    said: bool = False  # that some of it never does
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0

    def check_finite(self, start: int) -> None:
        """Raises ``Diverged`` for the first iteration after ``start`` whose losses are not finite."""
        for i in range(start, len(self.cross_entropy)):
            losses = {"cross-entropy": self.cross_entropy[i], "contrast": self.contrast[i]}
            found = {name: value for name, value in losses.items() if value is not None}
            if not all(math.isfinite(value) for value in found.values()):
                raise Diverged(i + 1, ", ".join(f"{name} {value:g}" for name, value in found.items()))


class Losses:
    """Losses of the last iterations, still on the device."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.parts: list[tuple[Tensor, Tensor | None]] = []
        self.pending: list[tuple[Tensor, Tensor | None]] = []

    def append(self, cross_entropy: Tensor, contrast: Tensor | None) -> None:
        self.parts.append((cross_entropy, contrast))

    def step_done(self) -> None:
        contrasts = [contrast for _, contrast in self.parts if contrast is not None]
        self.pending.append((_sum([c for c, _ in self.parts]), _sum(contrasts) if contrasts else None))
        self.parts.clear()

    def read_into(self, history: History, lazily: bool = False) -> bool:
        """Whether there was something to read. Reading waits for the device: ``lazily`` does so every 20 iterations
        only."""
        if not self.pending or (lazily and len(self.pending) < 20):
            return False
        # Of the cross-entropy every process has its share; the contrast is the same for all.
        shares = self.processes.sum(torch.stack([c for c, _ in self.pending])) / self.processes.size
        for cross_entropy, (_, contrast) in zip(shares.tolist(), self.pending, strict=True):
            history.cross_entropy.append(cross_entropy)
            history.contrast.append(None if contrast is None else float(contrast))
        self.pending.clear()
        return True


def _sum(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum()
