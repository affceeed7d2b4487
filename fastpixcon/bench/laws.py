"""Scaling laws: exponents fitted to what was measured, beside the roof of the machine and fastpixcon.plan."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

from fastpixcon.bench import machine, peers, workers
from fastpixcon.bench.cells import measured
from fastpixcon.bench.workloads import Cell
from fastpixcon.plan import EAGER_MATRICES, plan, with_rates

ASYMPTOTIC = 4096  # anchors from which an exponent in N is fitted
BASE = Cell("self", 8192)
BANK = Cell("bank", 1024, 190_000)


class Law(NamedTuple):
    """value ~ along^exponent"""

    peer: str
    of: str  # median or memory
    along: str  # n, m, dim or threads
    exponent: float
    error: float  # standard error of the exponent, 0 of two points
    points: int
    low: int
    high: int


def fit(xs: list[float], ys: list[float]) -> tuple[float, float]:
    """Slope of log y over log x by least squares, and its standard error."""
    u, v = ([math.log(z) for z in zs] for zs in (xs, ys))
    mu, mv = sum(u) / len(u), sum(v) / len(v)
    spread = sum((a - mu) ** 2 for a in u)
    slope = sum((a - mu) * (b - mv) for a, b in zip(u, v, strict=True)) / spread
    if len(u) == 2:
        return slope, 0.0
    rest = sum((b - mv - slope * (a - mu)) ** 2 for a, b in zip(u, v, strict=True))
    return slope, math.sqrt(rest / (len(u) - 2) / spread)


def along(results: dict[str, Any], base: Cell, axis: str, peer: str, of: str) -> list[tuple[int, float]]:
    """Points of cells that differ from ``base`` in ``axis`` only, by size."""
    points = []
    for entry in results["cells"].values():
        cell = Cell(**entry["cell"])
        value = getattr(cell, axis)
        answer = entry["peers"].get(peer, {"status": workers.ABSENT})
        if answer["status"] == workers.OK and replace(base, **{axis: value}) == cell and answer[of] > 0:
            points.append((value, float(answer[of])))
    return sorted(points)


def most_threads(results: dict[str, Any]) -> int:
    return max((entry["cell"]["threads"] for entry in results["cells"].values()), default=1)


def laws(results: dict[str, Any]) -> list[Law]:
    threads = most_threads(results)
    series = [("n", replace(BASE, threads=threads, dtype=dtype)) for dtype in ("float32", "bfloat16")]
    series += [("dim", replace(BASE, threads=threads)), ("threads", BASE), ("m", replace(BANK, threads=threads))]
    found = []
    for axis, base in series:
        for name in measured(results):
            for of in ("median", "memory"):
                points = [p for p in along(results, base, axis, name, of) if axis != "n" or p[0] >= ASYMPTOTIC]
                if len(points) >= 2:
                    xs, ys = ([float(x) for x in column] for column in zip(*points, strict=True))
                    title = f"{name} (bfloat16)" if base.dtype == "bfloat16" else name
                    found.append(Law(title, of, axis, *fit(xs, ys), len(points), points[0][0], points[-1][0]))
    return found


def roofline(run: dict[str, Any], n: int, dim: int, dtype: str = "float32") -> float:
    """Seconds that self contrast takes at least: its products at the peak, its rows and gradient once through
    memory."""
    item = 4 if dtype == "float32" else 2
    return max(
        4.0 * n * n * dim / (machine.peak_tflops(run, dtype) * 1e12),
        2.0 * n * dim * item / (run["bandwidth_gbs"] * 1e9),
    )


def planned(run: dict[str, Any], n: int, dim: int, dtype: str = "float32") -> dict[str, tuple[float, float]]:
    """What fastpixcon.plan says of this machine: seconds, and bytes without rows and their gradient, by mode."""
    device = with_rates("cpu", machine.peak_tflops(run, dtype), run["bandwidth_gbs"], None)
    short = {"float32": "fp32", "bfloat16": "bf16"}[dtype]
    item = 4 if dtype == "float32" else 2
    plans = plan(n, dim, device=device, dtype=short)
    return {
        mode: (p.seconds, max(0.0, p.memory_bytes - 2 * n * dim * item))
        for mode, p in plans.items()
        if mode != "gather"
    }


def markdown(results: dict[str, Any]) -> list[str]:
    found = laws(results)
    lines = ["## Scaling laws", ""]
    if not found:
        return [*lines, "Too few sizes for a fit."]
    lines += [
        f"Value ~ axis^exponent, by least squares of logarithms (± standard error, from three points on);"
        f" in N from {ASYMPTOTIC:,} on. N, D and threads: `self`, M: `bank`.",
        "",
        "| peer | of | along | exponent | points | from | to |",
        "|---|---|---|---|---|---|---|",
    ]
    for law in found:
        error = f" ± {law.error:.2f}" if law.points > 2 else ""
        of = "time" if law.of == "median" else "memory"
        axis = {"n": "N", "m": "M", "dim": "D", "threads": "threads"}[law.along]
        lines.append(
            f"| {law.peer} | {of} | {axis} | {law.exponent:.2f}{error} | {law.points} | {law.low:,} | {law.high:,} |"
        )
    return [*lines, "", *_against_plan(results)]


def _against_plan(results: dict[str, Any]) -> list[str]:
    base = replace(BASE, threads=most_threads(results))
    rows = []
    for n, seconds in along(results, base, "n", peers.OURS, "median"):
        entry = results["cells"][replace(base, n=n).key]
        run = results["runs"][entry["run"]]
        of_plan = planned(run, n, base.dim)
        memory = entry["peers"][peers.OURS]["memory"]
        eager = entry["peers"].get("eager", {"status": ""})
        cells = [
            f"{seconds / roofline(run, n, base.dim):.2f}",
            f"{seconds / of_plan['ring'][0]:.2f}",
            f"{memory / of_plan['ring'][1]:.2f}",
        ]
        is_ok = eager["status"] == workers.OK
        cells += [f"{eager[k] / of_plan['eager'][i]:.2f}" if is_ok else "-" for i, k in enumerate(("median", "memory"))]
        rows.append(f"| {n:,} | " + " | ".join(cells) + " |")
    if not rows:
        return []
    return [
        "`self`, D = 256, float32: measured over the roof (the greater of products at the peak and rows through memory"
        " once), and over what `fastpixcon plan` predicts with this machine's rates. It assumes"
        f" {EAGER_MATRICES} matrices of the eager original; workspaces of kernels are not in it.",
        "",
        "| N | time over roof | over plan | memory over plan | eager: time over plan | memory over plan |",
        "|---|---|---|---|---|---|",
        *rows,
    ]
