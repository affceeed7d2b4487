"""What took part in the contrast of an arm, epoch by epoch, and in words where whole classes never do."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastpixcon import LastCall
from fastpixcon.training.config import Contrast
from fastpixcon.training.processes import Processes

# Fields of LastCall: of a call, and of its classes.
NUMBERS = ("anchors", "segments", "left_out", "classes", "without_positive", "bank_places")
OF_CLASSES = ("class_anchors", "class_segments", "class_left_out")
_ENOUGH = 20  # calls without any anchor before it is said, which does not wait for the end of an epoch


class Participation:
    """Of the last calls, still on the device, and of every epoch, sums of a process's calls as plain values."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.pending: list[Tensor] = []
        self.size: tuple[int, ...] = ()  # of the map, h and w
        self.latest: dict[str, float] = {}  # NUMBERS of the last call that was read

    def note(self, last: LastCall, size: tuple[int, ...]) -> None:
        numbers = torch.stack([getattr(last, name) for name in NUMBERS])
        self.pending.append(torch.cat([numbers, *(getattr(last, name) for name in OF_CLASSES)]))  # [6 + 3 K]
        self.size = size

    def read_into(self, epochs: list[dict[str, Any]], epoch: int) -> None:
        """Adds what is pending to the entry of ``epoch``; it waits for the device, as reading losses does."""
        if not self.pending:
            return
        calls = torch.stack(self.pending)  # [n, 6 + 3 K]
        both = self.processes.sum(torch.stack([calls.sum(0), calls[-1]]).double()) / self.processes.size
        sums, latest = both.tolist()
        self.latest = dict(zip(NUMBERS, latest, strict=False))
        if not epochs or epochs[-1]["epoch"] != epoch:
            epochs.append({"epoch": epoch, "calls": 0})
        entry, K = epochs[-1], (len(sums) - len(NUMBERS)) // len(OF_CLASSES)
        entry["calls"] += len(self.pending)
        for name, value in zip(NUMBERS, sums, strict=False):
            entry[name] = entry.get(name, 0.0) + value
        for i, name in enumerate(OF_CLASSES):
            values = sums[len(NUMBERS) + i * K :][:K]
            entry[name] = [a + b for a, b in zip(entry.get(name, [0.0] * K), values, strict=True)]
        self.pending.clear()

    def words(
        self, epochs: Sequence[dict[str, Any]], contrast: Contrast, classes: Sequence[str], wanted: int
    ) -> str | None:
        """What is wrong, if anything, after ``wanted`` calls, or, if nothing at all takes part, after fewer."""
        calls = sum(entry["calls"] for entry in epochs)
        if not calls:
            return None
        total = {name: sum(entry[name] for entry in epochs) for name in NUMBERS}
        least = contrast.min_pixels or contrast.max_views + 1
        key = "max_views" if contrast.min_pixels is None else "min_pixels"
        asks = (
            f"the {least} pixels of the map of {' x '.join(map(str, self.size))} that contrast.{key}="
            f"{getattr(contrast, key)} asks for; a smaller contrast.min_pixels{' or max_views' * (key == 'max_views')}"
        )
        if not total["anchors"] and calls >= min(wanted, _ENOUGH):
            return (
                f"nothing took part in the contrast in {calls} calls, its loss is 0: of {total['left_out']:.0f} "
                f"segments, each a class in an image, none has {asks} lets them take part"
            )
        if total["anchors"] and total["without_positive"] == total["anchors"] and calls >= min(wanted, _ENOUGH):
            return (
                f"no anchor had a positive in {calls} calls of the contrast, its loss is 0: contrast.max_views="
                f"{contrast.max_views} and contrast.max_samples={contrast.max_samples} leave a class one anchor; want "
                "more, or an arm with memory"
            )
        if calls < wanted or not total["anchors"]:
            return None
        taken, left = ([sum(values) for values in zip(*(e[n] for e in epochs), strict=True)] for n in OF_CLASSES[1:])
        never = [name for name, t, out in zip(classes, taken, left, strict=True) if out and not t]
        if not never:
            return None
        drawn = ""
        if total["segments"] >= contrast.max_samples * calls:
            drawn = f", or was drawn where there are more than contrast.max_samples={contrast.max_samples}"
        return (
            f"{', '.join(never)} never took part in the contrast in {calls} calls: no segment of theirs, a class in an "
            f"image, has {asks} lets them take part{drawn}"
        )


def means(epochs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a call and process, an entry an epoch."""

    def mean(value: Any, calls: int) -> Any:
        return [v / calls for v in value] if isinstance(value, list) else value / calls

    kept = ("epoch", "calls")
    return [{k: v if k in kept else mean(v, entry["calls"]) for k, v in entry.items()} for entry in epochs]
