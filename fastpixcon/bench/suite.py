"""Every workload against every peer that this machine has: fastpixcon bench.

    fastpixcon bench --quick                    # three minutes
    fastpixcon bench                            # an hour at most on two cores
    fastpixcon bench --workloads self pairs --peers eager linear_cross_entropy --out /tmp/results
    fastpixcon bench --workloads pairs bank self --up-to 16384
    fastpixcon bench --peer my_kernel.py:loss   # and a loss of your own: docs/benchmark-your-own.md
    fastpixcon bench --report                   # tables and plots anew from results.json

Forward and backward of each peer run in a process of their own. A peer is timed on a problem only after its gradients
agreed there with float64's; then peers take turns. Memory is what a call adds at its peak, without inputs and
gradients. Cells that results.json has are kept; --fresh measures them again. Larger sizes of a peer that was too slow
or too large are left out. In a checkout results go to a folder of bench/results that is named for the processor, and
bench/results/README.md and README.md are written anew of all of them; else to runs/ in the current folder.
"""

import argparse
import importlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from fastpixcon.bench import machine, own, processors, report, workers, workloads
from fastpixcon.bench import peers as all_peers
from fastpixcon.bench.workloads import Cell
from fastpixcon.testing.own import file
from fastpixcon.training import TrainingError, writing

SCHEMA = 1
OURS = all_peers.OURS
OWN = 15  # times a peer's limit of seconds a call is the library's own
TRUTH_SECONDS = 1800.0


class Suite:
    """Measures cells, and keeps what it has found in ``results``."""

    def __init__(self, results: dict[str, Any], names: Sequence[str], options: argparse.Namespace) -> None:
        self.results, self.names, self.options = results, names, options
        self.peers = importlib.import_module(options.module).PEERS | {peer.name: peer for peer in options.own}
        chosen = [self.peers[name] for name in names if self.peers[name].reason(options.device) is None]
        workers.PRELOADED += {p.preload for p in chosen if p.preload} - set(workers.PRELOADED)
        self.truths = tempfile.TemporaryDirectory()
        self.known_truths: dict[str, Path] = {}

    def wants(self, cell: Cell) -> bool:
        return not set(self.names) <= set(self.known(cell))

    def known(self, cell: Cell) -> dict[str, Any]:
        found: dict[str, Any] = self.results["cells"].get(cell.key, {}).get("peers", {})
        return found

    def measure(self, cell: Cell) -> dict[str, dict[str, Any]]:
        """What each peer gave: status, and reason or seconds, memory and errors."""
        answers: dict[str, dict[str, Any]] = {}
        open_workers: dict[str, workers.Worker] = {}
        rounds: dict[str, list[float]] = {}
        try:
            for name in (x for x in self.peers if x in self.names or x in self.known(cell)):
                limit = self.options.time_limit * (OWN if name == OURS else 1)
                try:
                    self.refuse_early(name, cell)
                    worker = self.start(name, cell)
                    open_workers[name] = worker
                    answer = workers.run_peer(worker, self.peers[name].compiles, limit)
                    if answer["seconds"] > limit:
                        raise workers.NoResultError(workers.TIME)
                    answers[name] = {"status": workers.OK, **answer}
                    rounds[name] = []
                except workers.NoResultError as error:
                    answers[name] = {"status": error.status, "reason": error.reason}
                    if name in open_workers:
                        open_workers[name].close()
                        del open_workers[name]
            seconds = {name: answers[name].pop("seconds") for name in rounds}
            turns = {n: w for n, w in open_workers.items() if seconds[n] <= self.options.time_limit}
            if sum(seconds[name] for name in turns) <= self.options.cell_seconds:
                until = time.monotonic() + self.options.cell_seconds
                patience = {name: 10 * seconds[name] + 10 for name in turns}
                for name, value in workers.take_turns(turns, self.options.repeats, until, patience):
                    if isinstance(value, float):
                        rounds[name].append(value)
                    else:
                        answers[name] = {"status": value.status, "reason": value.reason}
            for name, values in rounds.items():
                if answers[name]["status"] == workers.OK:  # where rounds would take too long, the call before them
                    values = values or [seconds[name]]
                    answers[name] |= {"median": statistics.median(values), "seconds": values}
        finally:
            for worker in open_workers.values():
                worker.close()
        return answers

    def refuse_early(self, name: str, cell: Cell) -> None:
        """Raises where the answer is known without a process, from the machine or from a smaller size."""
        reason = self.peers[name].reason(self.options.device)
        if reason is None and self.peers[name].slow and self.options.leave_out_slow:
            reason = "compiles too long for --quick"
        if reason is not None:
            raise workers.NoResultError(workers.ABSENT, reason)
        if cell.workload in workloads.MAP_WORKLOADS:
            return
        smaller = [
            (other, entry["peers"][name])
            for entry in self.results["cells"].values()
            if (other := Cell(**entry["cell"])).costs_like(cell) and other.pairs < cell.pairs
            and name in entry["peers"]
        ]  # fmt: skip
        limit = self.options.time_limit * (OWN if name == OURS else 1)
        for other, answer in sorted(smaller, key=lambda pair: pair[0].pairs, reverse=True):
            size = f"N = {other.n:,}" + (f", M = {other.m:,}" if other.m else "")
            if answer["status"] in (workers.MEMORY, workers.TIME):
                raise workers.NoResultError(answer["status"], answer["reason"] or f"at {size} already")
            if answer["status"] == workers.OK:
                expected = answer["median"] * cell.pairs / other.pairs
                if expected > limit:
                    raise workers.NoResultError(workers.TIME, f"by {size} it would take {expected:.0f} s")
                break

    def start(self, name: str, cell: Cell) -> workers.Worker:
        path = str(self.truth(cell)) if cell.workload in workloads.ROW_WORKLOADS else None
        limits = workers.Limits(self.options.memory_limit, self.options.time_limit)
        device = self.options.device
        return workers.Worker(workers.serve, cell, self.peers[name], path, device, limits)

    def truth(self, cell: Cell) -> Path:
        """The same for every dtype and number of threads; made when a peer first needs it."""
        cell = replace(cell, dtype="float32", threads=self.options.threads)
        path = self.known_truths.get(cell.key)
        if path is None:
            path = Path(self.truths.name) / f"{len(self.known_truths)}.pt"
            with workers.open_worker(workers.write_truth, cell, str(path)) as worker:
                worker.ask(TRUTH_SECONDS)
            self.known_truths[cell.key] = path
        return path


def cells_of(options: argparse.Namespace) -> list[Cell]:
    chosen = {"full": workloads.full, "quick": workloads.quick, "smallest": workloads.smallest}[options.size]()
    cells = [replace(cell, threads=options.threads) for cell in chosen if cell.workload in options.workloads]
    if options.size == "full" and "self" in options.workloads:  # how time falls with threads
        fewer = [2**k for k in range(options.threads.bit_length()) if 2**k < options.threads]
        cells += [Cell("self", 8192, threads=threads) for threads in fewer]
    return [cell for cell in cells if cell.n <= options.up_to]


def load(path: Path, fresh: bool) -> dict[str, Any]:
    results: dict[str, Any] = {"schema": SCHEMA, "runs": [], "cells": {}}
    found = read(path)
    if found and not fresh:
        if found["schema"] == SCHEMA:
            return found
        print(f"{path}: of another version of the suite, measured anew", file=sys.stderr)
    return results


def read(path: Path) -> dict[str, Any] | None:
    """What the suite has written there, in any version; None if it has not."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"schema", "runs", "cells"} <= found.keys() else None


def forget_changed(results: dict[str, Any], names: Sequence[str]) -> None:
    """Of losses of a user's own, what was measured of another content of the file."""
    known = results.setdefault("own", {})
    for name in names:
        now = own.contents(name)
        if known.get(name, now) != now:
            print(f"{name}: the file has changed, measured anew")
            for entry in results["cells"].values():
                entry["peers"].pop(name, None)
        known[name] = now


def check_machine(results: dict[str, Any], options: argparse.Namespace) -> None:
    """TrainingError where results are another machine's."""
    here = torch.cuda.get_device_name() if options.device != "cpu" else machine.processor()
    for run in report.used_runs(results):
        there = run.get("gpu", run["cpu"])
        if there != here:
            raise TrainingError(
                f"--out: {options.out} has results of {there}, this is {here}; want another folder, or --fresh"
            )


def check_outputs(folder: Path) -> None:
    """A folder with results of the suite is the suite's; in any other nothing is replaced. TrainingError before the
    work."""
    results = folder / "results.json"
    files = writing.Outputs("--out", overwrite=read(results) is not None)
    for name in (results.name, *report.FILES):
        try:
            files.claim(folder / name)
        except TrainingError as error:
            text = str(error).replace("another name, or --overwrite to replace it", "another folder")
            raise TrainingError(text) from None


def save(results: dict[str, Any], path: Path) -> None:
    writing.make_folder(path.parent, "--out")
    writing.write_text(path, json.dumps(results, indent=1) + "\n")


def line(cell: Cell, answers: dict[str, dict[str, Any]]) -> str:
    """A cell in a line."""
    title = f"{cell.workload} N={cell.n}" + (f" M={cell.m}" if cell.m else "")
    title += f" D={cell.dim} {cell.dtype} K={cell.classes}" + (" long-tailed" if cell.labels != "balanced" else "")
    found = [
        f"{name} {report.duration(answer['median'])}"
        if answer["status"] == workers.OK
        else f"{name}: {answer['status']}"
        for name, answer in answers.items()
        if answer["status"] not in (workers.ABSENT, workers.NO_FORMULA)
    ]
    return f"{title}, {cell.threads} threads: {', '.join(found)}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fastpixcon bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    quick = parser.add_mutually_exclusive_group()
    quick.add_argument("--quick", dest="size", action="store_const", const="quick", help="small sizes, three minutes")
    quick.add_argument("--smallest", dest="size", action="store_const", const="smallest", help="to test the suite")
    names = list(workloads.WORKLOADS)
    parser.add_argument("--workloads", nargs="+", default=names, choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--peers", nargs="+", metavar="NAME", help=f"beside {OURS}: {', '.join(all_peers.PEERS)}")
    text = "a loss of your own, timed beside them; may be given several times. The file is executed"
    parser.add_argument("--peer", action="append", default=[], metavar=file.WANTED, help=text)
    text = "that it computes, default negatives; may be given several times"
    parser.add_argument("--denominator", action="append", choices=own.DENOMINATORS, help=text)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--minutes", type=float, help="no cell begins later, run again to go on; default 60, quick 3")
    parser.add_argument("--up-to", type=int, default=10**9, metavar="N", help="leave out cells of more anchors")
    parser.add_argument("--repeats", type=int, help="rounds at most, default 7; quick 3")
    parser.add_argument(
        "--time-limit", type=float, help=f"seconds a call of a peer, default 20, quick 5; {OURS}: x {OWN}"
    )
    parser.add_argument("--cell-seconds", type=float, help="of rounds on a cell, default 20, quick 4")
    parser.add_argument("--memory-limit", type=float, metavar="GIB", help="of a call, default 0.7 of what is free")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="folder; default: see above, --quick runs/bench-quick")
    parser.add_argument("--fresh", action="store_true", help="measure again what results.json has")
    parser.add_argument("--report", action="store_true", help="measure nothing, write tables and plots")
    parser.add_argument(
        "--module", default="fastpixcon.bench.peers", help=argparse.SUPPRESS
    )  # with PEERS: tests have wrong ones
    options = parser.parse_args(arguments)
    options.size = options.size or "full"
    small = options.size != "full"
    options.repeats = options.repeats or (3 if small else 7)
    options.minutes = options.minutes or (3.0 if small else 60.0)
    options.time_limit = options.time_limit or (5.0 if small else 20.0)
    options.cell_seconds = options.cell_seconds or (4.0 if small else 20.0)
    options.out = options.out or default_folder(options)
    gib = options.memory_limit
    options.memory_limit = int(gib * 2**30 if gib else 0.7 * machine.available_memory())
    known = importlib.import_module(options.module).PEERS
    wrong = [name for name in options.peers or [] if name not in known]
    if wrong:
        parser.error(f"--peers: got {', '.join(wrong)}, want some of {', '.join(known)}")
    options.leave_out_slow = small and options.peers is None
    options.peers = [OURS, *(name for name in known if name != OURS and name in (options.peers or known))]
    try:
        own_peers = [own.peer(text, options.denominator or ("negatives",)) for text in dict.fromkeys(options.peer)]
    except file.FileError as error:
        raise TrainingError(str(error)) from None
    options.own = own_peers
    options.peers += [peer.name for peer in own_peers]
    return options


def default_folder(options: argparse.Namespace) -> Path:
    """Where results go: of a machine to its folder in the repository, of anything less to runs/."""
    root, small = machine.repository(), options.size != "full"
    names = [f"{Path(name).stem}-{function}" for name, _, function in (x.rpartition(":") for x in options.peer)]
    if root is not None and not small and not names:
        return root / "bench" / "results" / machine.folder_name(options.device)
    return Path("runs") / "-".join(["bench", *names, *(["quick"] if small else [])])


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    path, root = options.out / "results.json", machine.repository()
    is_ours = root is not None and options.out.resolve().parent == root / "bench" / "results"
    check_outputs(options.out)
    if root is not None and is_ours and options.report:
        print(*processors.write_all(root), sep="\n")
        return 0
    results = load(path, options.fresh)
    forget_changed(results, [peer.name for peer in options.own])
    suite = Suite(results, options.peers, options)
    cells = [] if options.report else [cell for cell in cells_of(options) if suite.wants(cell)]
    if cells:
        check_machine(results, options)
        results["runs"].append(machine.describe(options.device, options.threads))
    until = time.monotonic() + 60 * options.minutes
    for number, cell in enumerate(cells, 1):
        start = time.monotonic()
        if start > until:
            print(f"the time is up, {len(cells) - number + 1} cells are left: run it again to go on")
            break
        answers = suite.measure(cell)
        took = time.monotonic() - start
        results["cells"][cell.key] = {
            "cell": asdict(cell), "run": len(results["runs"]) - 1, "took": round(took, 1), "peers": answers,
        }  # fmt: skip
        save(results, path)
        print(f"[{number}/{len(cells)}, {took:.0f} s] {line(cell, answers)}", flush=True)
    judged = [OURS, *(peer.name for peer in options.own)]
    if not results["cells"]:
        print(f"{path}: nothing measured yet", file=sys.stderr)
        return 2
    print(report.write(results, options.out))
    for peer in options.own:
        print("", *report.own_table(results, peer.name), sep="\n")
    if root is not None and is_ours:
        processors.write(root)
    judgements = [entry["peers"].get(name) for entry in results["cells"].values() for name in judged]
    return int(any(x is not None and x["status"] in report.OWN_FAILURES for x in judgements))
