"""results.json as Markdown: ratios and memory of every cell, what did not run and why, and where the library loses."""

from pathlib import Path
from typing import Any

import laws
import machine
import peers
import workers
import workloads
from cells import Entry, entries
from workloads import Cell

from fastpixcon.training import writing

FILES = ("README.md", "time.png", "memory.png", "ratios.png", "laws.png")  # what write makes

OURS = peers.OURS
OWN_FAILURES = (workers.WRONG, workers.FAILED)
FASTEST_FROM, SMALLEST_FROM = 1024, 4096  # anchors from which no peer may be faster, or use less memory
SHORT = {workers.MEMORY: "memory", workers.TIME: "time", workers.WRONG: "wrong", workers.FAILED: "failed"}
LEFT_OUT = (workers.ABSENT, workers.NO_FORMULA)


def duration(seconds: float) -> str:
    if seconds >= 100:
        return f"{seconds:.0f} s"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def size(count: float) -> str:
    mib = count / 2**20
    return f"{mib:,.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def problem(cell: Cell) -> list[str]:
    kind = f"{cell.classes}" + (", long-tailed" if cell.labels != "balanced" else "")
    kind = "-" if cell.workload in ("two_views", "pairs") else kind
    return [f"{cell.n:,}", f"{cell.m:,}" if cell.m else "-", str(cell.dim), cell.dtype, kind, str(cell.threads)]


PROBLEM = ["N", "M", "D", "dtype", "classes", "threads"]


def shown_peers(found: list[tuple[Cell, Entry]]) -> list[str]:
    """Those that tried at least one of the cells."""
    tried = {n for _, entry in found for n, answer in entry["peers"].items() if answer["status"] not in LEFT_OUT}
    return [name for name in peers.PEERS if name in tried and name != OURS]


def answer_text(answer: Entry | None, of: str, ours: Entry) -> str:
    """A peer's ratio to ours, itself where ours has none, or why there is none."""
    if answer is None or answer["status"] in LEFT_OUT:
        return "-"
    if answer["status"] != workers.OK:
        return SHORT[answer["status"]]
    value = answer[of]
    own = ours.get(of) if ours["status"] == workers.OK else None
    text = duration(value) if of == "median" else size(value)
    if not own:
        return text
    return f"{value / own:.2f} x" if value < 10 * own else f"{value / own:.0f} x"


def times(results: dict[str, Any], found: list[tuple[Cell, Entry]]) -> list[str]:
    names = shown_peers(found)
    rows = []
    for cell, entry in found:
        ours = entry["peers"][OURS]
        speed = ["-", "-"]
        if ours["status"] == workers.OK and cell.workload in workloads.ROW_WORKLOADS:
            run = results["runs"][entry["run"]]
            rate = cell.flop / ours["median"] / 1e12
            roof = machine.peak_tflops(run, cell.dtype) * cell.threads / run["threads"]
            speed = [f"{rate:.3g}", f"{rate / roof:.2f}"]
        own = duration(ours["median"]) if ours["status"] == workers.OK else SHORT.get(ours["status"], "-")
        others = [answer_text(entry["peers"].get(name), "median", ours) for name in names]
        rows.append([*problem(cell), own, *speed, *others])
    return table([*PROBLEM, OURS, "TFLOP/s", "of the roof", *names], rows)


def memories(found: list[tuple[Cell, Entry]]) -> list[str]:
    names = shown_peers(found)
    rows = []
    for cell, entry in found:
        ours = entry["peers"][OURS]
        own = size(ours["memory"]) if ours["status"] == workers.OK else SHORT.get(ours["status"], "-")
        others = [answer_text(entry["peers"].get(name), "memory", ours) for name in names]
        rows.append([*problem(cell), own, *others])
    return table([*PROBLEM, OURS, *names], rows)


def losses(results: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Points where a peer is faster, and where one uses less memory."""
    faster, smaller = [], []
    for cell, entry in entries(results):
        ours = entry["peers"][OURS]
        if ours["status"] != workers.OK:
            continue
        where = f"{cell.workload}: {', '.join(f'{a} {b}' for a, b in zip(PROBLEM, problem(cell), strict=True))}"
        for name, answer in entry["peers"].items():
            if name == OURS or answer["status"] != workers.OK:
                continue
            for of, least, into in (("median", FASTEST_FROM, faster), ("memory", SMALLEST_FROM, smaller)):
                if cell.n >= least and answer[of] < ours[of]:
                    values = [duration(x[of]) if of == "median" else size(x[of]) for x in (answer, ours)]
                    into.append(f"- {where}: {name} {values[0]}, {OURS} {values[1]}")
    return faster, smaller


def reasons(results: dict[str, Any]) -> list[str]:
    """What did not run, and why: each peer and reason once."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for cell, entry in entries(results):
        for name, answer in entry["peers"].items():
            if answer["status"] != workers.OK:
                key = (name, answer["status"], answer.get("reason") or "")
                found.setdefault(key, []).append(cell.workload)
    rows = [
        [name, ", ".join(dict.fromkeys(where)), status, reason.replace("|", "/")]
        for (name, status, reason), where in found.items()
    ]
    order = {name: number for number, name in enumerate(peers.PEERS)}
    rows.sort(key=lambda row: order.get(row[0], len(order)))
    return table(["peer", "workloads", "", "reason"], rows)


def used_runs(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Of which there are cells."""
    return [results["runs"][number] for number in sorted({entry["run"] for entry in results["cells"].values()})]


def environments(runs: list[dict[str, Any]]) -> list[str]:
    """When the runs were, and the machines and packages, once where they are the same."""
    alike: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        fixed = (run.get("gpu", run["cpu"]), run["threads"], run["isa"], run["python"], run["packages"])
        alike.setdefault(repr(fixed), []).append(run)
    return [line for same in alike.values() for line in environment(same)]


def environment(same: list[dict[str, Any]]) -> list[str]:
    """Of runs on one machine, with one set of packages; its rates are those that the last run measured."""
    run = same[-1]
    packages = ", ".join(f"{name} {version}" for name, version in run["packages"].items())
    roofs = [f"matmul {run['matmul_tflops']:.3f} TFLOP/s in float32", f"memory {run['bandwidth_gbs']:.0f} GB/s"]
    roofs += [
        f"registers {run[key]:.3f} TFLOP/s in {dtype}"
        for dtype in ("float32", "bfloat16")
        if (key := f"{dtype}_peak_tflops") in run
    ]
    return [
        *(
            f"- {run['date']}, commit {run['commit']}, fastpixcon {run['fastpixcon']}; load by others {run['load']}"
            for run in same
        ),
        f"- {run.get('gpu', run['cpu'])}, {run['threads']} of {run['cores']} cores, {run['isa']},"
        f" {run['memory_gib']} GiB",
        f"- {', '.join(roofs)}, on all threads",
        f"- Python {run['python']}, {packages}",
    ]


def best(answers: dict[str, Entry], of: str) -> str:
    """The peer with the least time or memory, and how many times ours it is."""
    there = {n: a[of] for n, a in answers.items() if n != OURS and a["status"] == workers.OK}
    if not there:
        return "-"
    name = min(there, key=lambda peer: there[peer])
    return f"{name} {answer_text(answers[name], of, answers[OURS])}"


def summary(results: dict[str, Any]) -> str:
    """The usual problems, each against its best peers and against eager PyTorch."""
    rows = []
    for cell, entry in entries(results):
        answers, run = entry["peers"], results["runs"][entry["run"]]
        usual = cell.dim == 256 and cell.labels == "balanced" and cell.classes == 19 and cell.threads == run["threads"]
        if not usual or answers[OURS]["status"] != workers.OK:
            continue
        row = [cell.workload, f"{cell.n:,}", f"{cell.m:,}" if cell.m else "-", cell.dtype]
        for of, text in (("median", duration), ("memory", size)):
            eager = answer_text(answers.get("eager"), of, answers[OURS])
            row += [text(answers[OURS][of]), best(answers, of), eager]
        rows.append(row)
    head = ["workload", "N", "M", "dtype", "time", "fastest peer", "eager", "memory", "least of a peer", "eager"]
    return "\n".join(table(head, rows))


FIGURES = {  # of the README: workload, N, M, dtype; what it is
    ("self", 8192, 0, "bfloat16"): "8,192 anchors, bfloat16",
    ("self", 131072, 0, "float32"): "131,072 anchors, float32",
    ("bank", 1024, 190000, "float32"): "1,024 anchors against a bank of 190,000 rows, float32",
}


def figures(results: dict[str, Any]) -> str:
    """What the README shows: a few problems, forward and backward, each against its best peers."""
    rows = {}
    for cell, entry in entries(results):
        what = FIGURES.get((cell.workload, cell.n, cell.m or 0, cell.dtype))
        usual = cell.dim == 256 and cell.classes == 19 and cell.labels == "balanced"
        if not what or not usual or cell.threads != results["runs"][entry["run"]]["threads"]:
            continue
        answers = entry["peers"]
        time, memory = duration(answers[OURS]["median"]), size(answers[OURS]["memory"])
        rows[what] = [what, time, best(answers, "median"), memory, best(answers, "memory")]
    run = used_runs(results)[-1]
    where = f"{run['threads']} cores of {run.get('gpu', run['cpu'])}" if results["cells"] else ""
    sorted_rows = [rows[what] for what in FIGURES.values() if what in rows]
    head = [f"forward and backward, D = 256, {where}", "time", "fastest peer", "memory", "least of a peer"]
    return "\n".join(table(head, sorted_rows))


BEGIN, END = "<!-- begin of what fastpixcon bench wrote -->", "<!-- end of what fastpixcon bench wrote -->"


def with_figures(readme: str, results: dict[str, Any]) -> str:
    """The README with its figures between its marks."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{figures(results)}\n\n{END}{after}"


def markdown(results: dict[str, Any], plots: list[str]) -> str:
    lines = [
        "# Benchmark",
        "",
        "Written by `fastpixcon bench`; `results.json` beside it has every number. Forward and backward; a peer is",
        "timed after its gradients agreed with float64's on that very problem. Times are medians of rounds in which",
        "peers take turns of a tenth of a second or one call, each in its own process; a peer's column is its time or",
        f"memory over that of {OURS}.",
        "Memory is what a call adds at its peak, without inputs and gradients. In place of a number: *memory*,",
        "*time*: over the limit; *wrong*: refused; -: it can't express the problem, or is not here. The roof is what",
        "registers alone multiply, or a matmul where that is not known.",
        "",
        *(f"![{Path(name).stem}]({name})" for name in plots),
        "",
        "## Where a peer is ahead",
        "",
    ]
    faster, smaller = losses(results)
    lines[-2:-2] = ["## Summary", "", "D = 256, 19 classes.", "", *summary(results).split("\n"), ""]
    lines += [f"Faster, from N = {FASTEST_FROM:,}: {len(faster) or 'none'}.", "", *faster, *([""] if faster else [])]
    lines += [f"In less memory, from N = {SMALLEST_FROM:,}: {len(smaller) or 'none'}."]
    lines += ["", *smaller] if smaller else []
    for workload, text in workloads.WORKLOADS.items():
        found = entries(results, workload)
        if found:
            lines += ["", f"## {workload}: {text}", "", "Time:", "", *times(results, found)]
            lines += ["", "Memory:", "", *memories(found)]
    lines += ["", *laws.markdown(results)]
    lines += ["", "## What did not run", "", *reasons(results)]
    lines += ["", "## Peers", ""]
    lines += [f"- {p.name}: {p.title}" for p in peers.PEERS.values()]
    lines += ["", "## Environment", ""]
    lines += environments(used_runs(results))
    return "\n".join(lines).rstrip() + "\n"


def write(results: dict[str, Any], folder: Path) -> str:
    """README.md and plots into ``folder``; returns what to print."""
    writing.make_folder(folder, "--out")
    try:
        import plots

        names = plots.draw(results, folder)
    except ImportError as error:
        names = []
        print(f"no plots: {error}")
    path = folder / "README.md"
    writing.write_text(path, markdown(results, names))
    faster, smaller = losses(results)
    return f"{path}: {len(results['cells'])} cells; a peer is faster at {len(faster)}, in less memory at {len(smaller)}"
