"""What is measured on every processor, bench/results/README.md and the README's figures, of every results.json."""

import json
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fastpixcon.bench import peers, report, workers
from fastpixcon.bench.cells import DTYPES, Entry, entries
from fastpixcon.bench.workloads import WORKLOADS, Cell
from fastpixcon.training import writing

OURS = peers.OURS
AHEAD = (("median", "time"), ("memory", "memory"))
FIGURES = {  # of the README: workload, N, M, dtype; what it is
    ("self", 8192, 0, "bfloat16"): "8,192 anchors, bfloat16",
    ("self", 131072, 0, "float32"): "131,072 anchors, float32",
    ("bank", 1024, 190000, "float32"): "1,024 anchors against a bank of 190,000 rows, float32",
}
BEGIN, END = "<!-- begin of what fastpixcon bench wrote -->", "<!-- end of what fastpixcon bench wrote -->"


class Nearest(NamedTuple):
    """The best peer of a cell."""

    ratio: float  # its time or memory over the library's
    name: str
    folder: str
    run: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.name} {self.ratio:.2f} x"

    @property
    def source(self) -> str:
        return f"{self.folder}, {self.run['commit']}, {self.run['date'][:10]}"


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """What each folder's results.json has, by the folder's name."""
    return {
        path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/results.json"))
    }


def notes(folder: Path) -> dict[str, str]:
    """Of folders that have a README.md alone, figures of which no results.json was kept: its first paragraph."""
    found = {}
    for path in sorted(folder.glob("*/README.md")):
        if not (path.parent / "results.json").exists():
            _, text, *_ = path.read_text(encoding="utf-8").split("\n\n")
            found[path.parent.name] = " ".join(text.split())
    return found


def nearest(results: dict[str, Any], folder: str, entry: Entry, of: str) -> Nearest | None:
    """None where no other peer has a result, or the library has none."""
    ours = entry["peers"][OURS]
    there = {n: a[of] for n, a in entry["peers"].items() if n != OURS and a["status"] == workers.OK}
    if not there or ours["status"] != workers.OK:
        return None
    name = min(there, key=lambda peer: there[peer])
    ratio = there[name] / ours[of] if ours[of] else float("inf")
    return Nearest(ratio, name, folder, results["runs"][entry["run"]])


def everywhere(found: dict[str, dict[str, Any]]) -> Iterator[tuple[Cell, list[tuple[str, Entry]]]]:
    """Each problem with the folders that have it, by workload, dtype and size; threads: 0 for all of a processor."""
    by_cell: dict[Cell, list[tuple[str, Entry]]] = {}
    for folder, results in found.items():
        for cell, entry in entries(results):
            is_whole = cell.threads == results["runs"][entry["run"]]["threads"]
            by_cell.setdefault(replace(cell, threads=0) if is_whole else cell, []).append((folder, entry))
    order = list(WORKLOADS)
    yield from sorted(
        by_cell.items(), key=lambda x: (order.index(x[0].workload), DTYPES.index(x[0].dtype), x[0].series, x[0].pairs)
    )


def worst(found: dict[str, dict[str, Any]], folders: list[tuple[str, Entry]], of: str) -> Nearest | None:
    there = [x for folder, entry in folders if (x := nearest(found[folder], folder, entry, of)) is not None]
    return min(there, key=lambda x: x.ratio, default=None)


def ahead_lines(found: dict[str, dict[str, Any]], of: str) -> list[str]:
    return [
        f"- {folder}: {x}; commit {x.run['commit']}, {x.run['date'][:10]}"
        for folder, results in found.items()
        for x in report.ahead(results, of)
    ]


def markdown(folder: Path) -> str:
    """bench/results/README.md"""
    found, more = read(folder), notes(folder)
    lines = [
        "# Benchmarks on every processor",
        "",
        "Written by `fastpixcon bench` of every `results.json` beside it; a processor's own page has all of its",
        "numbers. A peer's figure is its time or memory over that of fastpixcon: below 1 it is ahead.",
        "",
    ]
    rows = []
    for name, results in found.items():
        runs = report.used_runs(results)
        commits = ", ".join(dict.fromkeys(run["commit"] for run in runs))
        dates = ", ".join(dict.fromkeys(run["date"][:10] for run in runs))
        cores = "" if "gpu" in runs[-1] else f", {runs[-1]['threads']} of {runs[-1]['cores']} cores"
        where = f"{report.place(runs)}{cores}"
        rows.append([f"[{name}]({name}/README.md)", where, str(len(results["cells"])), dates, commits])
    lines += report.table(["", "processor", "cells", "measured", "commits"], rows)
    if more:
        lines += ["", "Figures without a `results.json`, which are not in what follows:", ""]
        lines += [f"- [{name}]({name}/README.md): {text}" for name, text in more.items()]
    lines += ["", "## Where a peer is ahead"]
    for of, what in AHEAD:
        there = ahead_lines(found, of)
        lines += ["", f"In {what}: {len(there) or 'nowhere'}.", *([""] if there else []), *there]
    lines += [
        "",
        "## The worst of every cell",
        "",
        "Of all processors that have it; -: no peer has a result there.",
        "",
    ]
    rows = []
    for cell, folders in everywhere(found):
        row = [cell.workload, *report.problem(cell)]
        row[-1] = str(cell.threads or "all")
        row.append(", ".join(name for name, _ in folders))
        for of, _ in AHEAD:
            peer = worst(found, folders, of)
            row += [str(peer), peer.source] if peer is not None else ["-", "-"]
        rows.append(row)
    head = ["workload", *report.PROBLEM, "measured on", "time", "where", "memory", "where"]
    return "\n".join([*lines, *report.table(head, rows)]) + "\n"


def figures(folder: Path) -> str:
    """What the README shows: a few problems, each against its best peers, and what holds of all cells."""
    found, more = read(folder), notes(folder)
    rows: list[list[str]] = []
    for cell, folders in everywhere(found):
        what = FIGURES.get((cell.workload, cell.n, cell.m or 0, cell.dtype))
        usual = cell.dim == 256 and cell.classes == 19 and cell.labels == "balanced" and not cell.threads
        for name, entry in folders:
            answers, run = entry["peers"], found[name]["runs"][entry["run"]]
            if what is None or not usual or answers[OURS]["status"] != workers.OK:
                continue
            time, memory = report.duration(answers[OURS]["median"]), report.size(answers[OURS]["memory"])
            where = name if "gpu" in run else f"{name}, {run['threads']} cores"
            rows.append([what, where, time, report.best(answers, "median"), memory, report.best(answers, "memory")])
    order = list(FIGURES.values())
    rows.sort(key=lambda row: order.index(row[0]))
    head = ["forward and backward, D = 256", "on", "time", "fastest peer", "memory", "least of a peer"]
    lines = [*report.table(head, rows), "", *textwrap.wrap(" ".join(sentences(found)), 120)]
    for name, text in more.items():
        said = f"Not among these, [{name}](bench/results/{name}/README.md): {text}"
        lines += ["", *textwrap.wrap(said, 120, break_long_words=False, break_on_hyphens=False)]
    return "\n".join(lines)


def sentences(found: dict[str, dict[str, Any]]) -> list[str]:
    """In how many of the cells that a peer has finished one is ahead, and how near the nearest comes."""
    where = " and ".join(f"{name} ({report.place(report.used_runs(results))})" for name, results in found.items())
    said = [f"Measured on {where}."]
    for of, _ in AHEAD:
        there = [
            (peer, cell)
            for cell, folders in everywhere(found)
            for folder, entry in folders
            if (peer := nearest(found[folder], folder, entry, of)) is not None
        ]
        if there:
            count = sum(peer.ratio < 1 for peer, _ in there)
            peer, cell = min(there, key=lambda x: x[0].ratio)
            size = f"N = {cell.n:,}" + (f", M = {cell.m:,}" if cell.m else "")
            ahead = "is a peer faster" if of == "median" else "does one take less memory"
            who = f"`{peer.name}`: {cell.workload}, {size}, {cell.dtype}, {peer.folder}"
            said.append(
                f"In {count or 'none'} of {len(there)} cells {ahead}; the nearest takes {peer.ratio:.2f} x ({who})."
            )
    return said


def with_figures(readme: str, folder: Path) -> str:
    """The README with its figures between its marks."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{figures(folder)}\n\n{END}{after}"


def write(root: Path) -> None:
    """Both pages of a checkout."""
    folder, readme = root / "bench" / "results", root / "README.md"
    writing.write_text(folder / "README.md", markdown(folder))
    writing.write_text(readme, with_figures(readme.read_text(encoding="utf-8"), folder))


def write_all(root: Path) -> list[str]:
    """And each processor's; what to print."""
    folder = root / "bench" / "results"
    said = [report.write(results, folder / name) for name, results in read(folder).items()]
    write(root)
    return said
