"""The results as PNG: time and memory against N, ratios, and scaling with the roof and the plan."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

from fastpixcon.bench import laws, peers, workers
from fastpixcon.bench.cells import entries, measured
from fastpixcon.bench.workloads import WORKLOADS
from fastpixcon.training import writing

matplotlib.use("Agg")
from matplotlib import pyplot

COLOURS = dict(zip(peers.PEERS, map(pyplot.get_cmap("tab20"), range(20)), strict=False)) | {peers.OURS: "black"}
DPI = 110
Axes = Any


def colour(name: str) -> Any:
    return COLOURS.get(name, "red")  # of a user's own


def _style(name: str) -> dict[str, Any]:
    width = 2.4 if name == peers.OURS else 1.2
    return {"color": colour(name), "linewidth": width, "marker": "o", "markersize": 3 if width < 2 else 5}


def _lines(axes: Axes, results: dict[str, Any], base: Any, axis: str, of: str) -> None:
    scale = 1 if of == "median" else 2**20
    for name in measured(results):
        points = laws.along(results, base, axis, name, of)
        if points:
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, [y / scale for y in ys], label=name, **_style(name))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.grid(alpha=0.3, which="both", linewidth=0.4)
    axes.set_ylabel("seconds, forward and backward" if of == "median" else "MiB at the peak, net")


def _save(figure: Any, path: Path) -> str:
    figure.tight_layout()
    writing.write(path, lambda file: figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None}))
    pyplot.close(figure)
    return path.name


def _against_n(results: dict[str, Any], of: str, path: Path) -> str | None:
    """A panel a workload and dtype that has two sizes."""
    threads = laws.most_threads(results)
    bases: dict[str, Any] = {}
    for cell, _ in entries(results):
        if cell.threads == threads and cell.workload not in ("step", "select"):
            bases.setdefault(cell.series, cell)
    panels = []
    for base in bases.values():
        axis = "m" if base.workload.startswith("bank") else "n"
        if len(sizes(results, base, axis)) > 1:
            panels.append((base, axis))
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(5 * columns, 4 * rows), squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for axes, (base, axis) in zip(grid.flat, panels, strict=False):
        if base.workload == "pairs":
            _pairs(axes, results, base, of)
        else:
            _lines(axes, results, base, axis, of)
        axes.set_title(f"{base.workload}, {base.dtype}, D = {base.dim}", fontsize=10)
        axes.set_xlabel({"n": "N", "m": f"M, N = {base.n:,}"}[axis])
        axes.legend(fontsize=7)
    return _save(figure, path)


def sizes(results: dict[str, Any], base: Any, axis: str) -> set[int]:
    cells = [cell for cell, _ in entries(results) if cell.series == base.series]
    return {getattr(cell, axis) for cell in cells}


def _pairs(axes: Axes, results: dict[str, Any], base: Any, of: str) -> None:
    """N = M."""
    known = results["cells"].values()
    same = {
        "cells": {
            str(i): {**e, "cell": {**e["cell"], "m": 0}}
            for i, e in enumerate(known)
            if e["cell"]["workload"] == "pairs"
        }
    }
    _lines(axes, same, replace(base, m=0), "n", of)


def _ratios(results: dict[str, Any], path: Path) -> str | None:
    """A group of bars a workload: times of its largest float32 cell that most peers finished, over ours."""
    groups = []
    for workload in WORKLOADS:
        best: tuple[int, int, Any, dict[str, float]] | None = None
        for cell, entry in entries(results, workload):
            done = {n: a["median"] for n, a in entry["peers"].items() if a["status"] == workers.OK}
            ours = done.pop(peers.OURS, None)
            if ours is None or not done or cell.dtype != "float32":
                continue
            ranked = (len(done), cell.pairs, cell, {name: value / ours for name, value in done.items()})
            best = ranked if best is None or ranked[:2] > best[:2] else best
        if best is not None:
            groups.append((best[2], best[3]))
    if not groups:
        return None
    figure, axes = pyplot.subplots(figsize=(1.2 + 1.9 * len(groups), 4.2))
    at, ticks, seen = 0.0, [], set()
    for cell, ratios in groups:
        start = at
        for name, value in ratios.items():
            axes.bar(at, value, 0.9, color=colour(name), label=None if name in seen else name)
            axes.text(at, value * 1.03, f"{value:.3g}", ha="center", fontsize=6)
            seen.add(name)
            at += 1
        ticks.append(((start + at - 1) / 2, f"{cell.workload}\nN = {cell.n:,}"))
        at += 1
    axes.axhline(1, color="black", linewidth=1)
    axes.set_yscale("log")
    axes.set_xticks([x for x, _ in ticks], [text for _, text in ticks], fontsize=8)
    axes.set_ylabel(f"time over that of {peers.OURS}")
    axes.legend(fontsize=7, ncols=2)
    return _save(figure, path)


def _laws(results: dict[str, Any], path: Path) -> str | None:
    """Time and memory against N, D, threads and M, with the roof and the plan where they say something."""
    threads = laws.most_threads(results)
    base = replace(laws.BASE, threads=threads)
    panels = [(base, "n", "median"), (base, "n", "memory"), (base, "dim", "median"), (base, "dim", "memory")]
    panels += [(laws.BASE, "threads", "median")]
    panels += [(replace(laws.BANK, threads=threads), "m", of) for of in ("median", "memory")]
    names = measured(results)
    panels = [p for p in panels if len({x for n in names for x, _ in laws.along(results, p[0], p[1], n, p[2])}) > 1]
    if not panels:
        return None
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(4.6 * columns, 4 * rows), squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    run = results["runs"][-1]
    for axes, (of_base, axis, of) in zip(grid.flat, panels, strict=False):
        _lines(axes, results, of_base, axis, of)
        if of_base.workload == "self" and axis in ("n", "dim"):
            points = laws.along(results, of_base, axis, peers.OURS, of)
            at = [(x, of_base.dim) if axis == "n" else (of_base.n, x) for x, _ in points]
            xs, plans = [x for x, _ in points], [laws.planned(run, *where) for where in at]
            which, scale = (0, 1) if of == "median" else (1, 2**20)
            axes.plot(xs, [p["ring"][which] / scale for p in plans], "k--", linewidth=1, label="plan: fused")
            axes.plot(
                xs, [p["eager"][which] / scale for p in plans], "--", color="grey", linewidth=1, label="plan: eager"
            )
            if of == "median":
                axes.plot(xs, [laws.roofline(run, *where) for where in at], "r:", linewidth=1.5, label="roof")
        axes.set_xlabel({"n": "N", "m": "M", "dim": "D", "threads": "threads"}[axis])
        axes.set_title(f"{of_base.workload}, {of_base.dtype}", fontsize=10)
        axes.legend(fontsize=6)
    return _save(figure, path)


def draw(results: dict[str, Any], folder: Path) -> list[str]:
    """Names of the files written."""
    drawn = [
        _against_n(results, "median", folder / "time.png"),
        _against_n(results, "memory", folder / "memory.png"),
        _ratios(results, folder / "ratios.png"),
        _laws(results, folder / "laws.png"),
    ]
    return [name for name in drawn if name is not None]
