"""results.json as Markdown: ratios and memory of every cell, what did not run and why, and where the library loses."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from fastpixcon.bench import laws, machine, peers, workers, workloads
from fastpixcon.bench.cells import Entry, entries, in_order
from fastpixcon.bench.workloads import Cell
from fastpixcon.training import writing

FILES = ("README.md", "time.png", "memory.png", "ratios.png", "laws.png")  # what write makes

OURS = peers.OURS
OWN_FAILURES = (workers.WRONG, workers.FAILED)
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
    tried = [n for _, entry in found for n, answer in entry["peers"].items() if answer["status"] not in LEFT_OUT]
    return [name for name in in_order(tried) if name != OURS]


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


class Ahead(NamedTuple):
    """Where a peer is ahead of the library."""

    cell: Cell
    of: str  # median or memory
    name: str
    theirs: float
    ours: float
    run: dict[str, Any]

    def __str__(self) -> str:
        where = ", ".join(f"{a} {b}" for a, b in zip(PROBLEM, problem(self.cell), strict=True))
        text = duration if self.of == "median" else size
        return f"{self.cell.workload}: {where}: {self.name} {text(self.theirs)}, {OURS} {text(self.ours)}"


def ahead(results: dict[str, Any], of: str) -> list[Ahead]:
    """Every cell and peer, in time (median) or memory."""
    found = []
    for cell, entry in entries(results):
        ours, run = entry["peers"][OURS], results["runs"][entry["run"]]
        if ours["status"] == workers.OK:
            found += [
                Ahead(cell, of, name, answer[of], ours[of], run)
                for name, answer in entry["peers"].items()
                if name != OURS and answer["status"] == workers.OK and answer[of] < ours[of]
            ]
    return found


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
    order = in_order(row[0] for row in rows)
    rows.sort(key=lambda row: order.index(row[0]))
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


def place(runs: list[dict[str, Any]]) -> str:
    """The processor or GPU of the last run."""
    return str(runs[-1].get("gpu", runs[-1]["cpu"])) if runs else "no machine"


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


def own_table(results: dict[str, Any], name: str) -> list[str]:
    """What a loss of a user's own gave on every cell, beside the library and the fastest other peer; and counts of why
    it gave nothing."""
    rows, why = [], Counter[str]()
    for cell, entry in entries(results):
        answer, ours = entry["peers"].get(name), entry["peers"][OURS]
        if answer is None:
            continue
        found, own = [answer["status"], "-", "-"], [ours["status"], "-"]
        if answer["status"] == workers.OK:
            error = answer.get("gradient_error")
            found = [duration(answer["median"]), size(answer["memory"]), "-" if error is None else f"{error:.1e}"]
        else:
            why[f"{answer['status']}{': ' * bool(answer['reason'])}{answer['reason']}"] += 1
        if ours["status"] == workers.OK:
            own = [duration(ours["median"]), size(ours["memory"])]
        others = {n: a for n, a in entry["peers"].items() if n != name}
        rows.append([cell.workload, *problem(cell)[:4], *found, *own, best(others, "median")])
    head = ["workload", *PROBLEM[:4], "time", "memory", "error of gradients", OURS, "its memory", "fastest other peer"]
    rows = [head, *([text.replace("|", "/") for text in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]  # to be read in a terminal, too
    head, *rows = ([text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in rows)
    timed = f"{name}: timed on {len(rows) - why.total()} of {len(rows)} problems."
    reasons = [f"- {count}: {reason}" for reason, count in why.items()]
    return [*table(head, rows), "", timed, *([""] if reasons else []), *reasons]


def markdown(results: dict[str, Any], plots: list[str]) -> str:
    lines = [
        f"# Benchmark on {place(used_runs(results))}",
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
    lines[-2:-2] = ["## Summary", "", "D = 256, 19 classes.", "", *summary(results).split("\n"), ""]
    for name in results.get("own", {}):
        lines[-2:-2] = [f"## {name}", "", *own_table(results, name), ""]
    for of, text in (("median", "Faster"), ("memory", "In less memory")):
        found_ahead = ahead(results, of)
        lines += [f"{text}: {len(found_ahead) or 'none'}.", "", *(f"- {x}" for x in found_ahead)]
        lines += [""] if found_ahead else []
    for workload, text in workloads.WORKLOADS.items():
        found = entries(results, workload)
        if found:
            lines += [f"## {workload}: {text}", "", "Time:", "", *times(results, found)]
            lines += ["", "Memory:", "", *memories(found), ""]
    lines += laws.markdown(results)
    lines += ["", "## What did not run", "", *reasons(results)]
    lines += ["", "## Peers", ""]
    lines += [f"- {p.name}: {p.title}" for p in peers.PEERS.values()]
    lines += [f"- {name}: a loss of your own" for name in results.get("own", {})]
    lines += ["", "## Environment", ""]
    lines += environments(used_runs(results))
    return "\n".join(lines).rstrip() + "\n"


def write(results: dict[str, Any], folder: Path) -> str:
    """README.md and plots into ``folder``; returns what to print."""
    writing.make_folder(folder, "--out")
    try:
        from fastpixcon.bench import plots

        names = plots.draw(results, folder)
    except ImportError as error:
        names = []
        print(f"no plots: {error}")
    path = folder / "README.md"
    writing.write_text(path, markdown(results, names))
    faster, smaller = (len({x.cell for x in ahead(results, of)}) for of in ("median", "memory"))
    return f"{path}: {len(results['cells'])} cells; a peer is faster at {faster}, in less memory at {smaller}"
