"""The results of a run: as plain values and as one table."""

import math
from collections.abc import Callable
from typing import Any

from rich.table import Table

from fastpixcon.training.history import History
from fastpixcon.training.metering import Meter
from fastpixcon.training.participation import means


def summarise(history: History, meter: Meter) -> dict[str, Any]:
    """One arm's results. Losses are in nats, memory in bytes, times in seconds unless named otherwise."""
    state = meter.state()
    losses = {
        name: {
            "seconds": reading["seconds"],
            "milliseconds_per_call": meter.readings[name].milliseconds,
            "peak_bytes": reading["peak_bytes"],
        }
        for name, reading in state.items()
    }
    last = history.evaluations[-1]
    return {
        "miou": last["miou"],
        "groups": last.get("groups", {}),  # a checkpoint of an older version has none
        "iou": last["iou"],
        "losses": losses,
        "iterations": len(history.cross_entropy),
        "train_seconds": history.train_seconds,
        "evaluate_seconds": history.evaluate_seconds,
        "evaluations": history.evaluations,
        "cross_entropy": history.cross_entropy,
        "contrast": history.contrast,
        "took_part": means(history.contrasted),
    }


def table(results: dict[str, Any]) -> Table:
    """A column for each arm, and how much more it is than the first one's."""
    arms = results["arms"]
    result = Table(title=f"{results['config']['name']}, seed {results['config']['seed']}: validation after training")
    result.add_column()
    for name in arms:
        result.add_column(name.replace("+", " +"), justify="right", overflow="fold")  # wraps between its parts

    def iou_row(label: str, value: Callable[[dict[str, Any]], float | None], style: str = "") -> None:
        first, *others = [value(arm) for arm in arms.values()]
        cells = [_percent(first)]
        for other in others:
            cells.append(_percent(other))
            if first is not None and other is not None and math.isfinite(other - first):
                gain = 100 * (other - first)
                cells[-1] += f" [{'green' if gain > 0 else 'red'}]{gain:+.2f}[/]"
        result.add_row(label, *cells, style=style)

    iou_row("mIoU %", lambda arm: arm["miou"], style="bold")
    for name, members in results["config"].get("evaluation", {}).get("groups", {}).items():
        iou_row(f"mIoU % {name} ({len(members)})", lambda arm, name=name: arm["groups"].get(name))  # type: ignore[misc]
    result.add_section()
    for k, name in enumerate(results["classes"]):
        iou_row(f"IoU % {name}", lambda arm, k=k: arm["iou"][k])  # type: ignore[misc]
    result.add_section()
    for loss, label in (("cross_entropy", "cross-entropy"), ("contrast", "contrast")):
        readings = [arm["losses"].get(loss) for arm in arms.values()]
        result.add_row(f"{label}: seconds in all", *(_cell(r, "seconds", "{:.1f}") for r in readings))
        result.add_row(f"{label}: ms per iteration", *(_cell(r, "milliseconds_per_call", "{:.1f}") for r in readings))
        result.add_row(f"{label}: peak memory, MiB", *(_cell(r, "peak_bytes", "{:.1f}", 2**20) for r in readings))
    result.add_section()
    result.add_row("training, s", *(f"{arm['train_seconds']:.0f}" for arm in arms.values()))
    result.add_row("evaluation, s", *(f"{arm['evaluate_seconds']:.0f}" for arm in arms.values()))
    total = sum(arm["train_seconds"] + arm["evaluate_seconds"] for arm in arms.values())
    result.caption = (
        f"{total:.0f} s in all. Losses: forward and backward, up to the gradient of the network's outputs; "
        "memory: growth of the process at its peak."
    )
    return result


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _cell(reading: dict[str, Any] | None, key: str, form: str, unit: float = 1) -> str:
    if reading is None or reading[key] is None:
        return "-"
    return form.format(reading[key] / unit)
