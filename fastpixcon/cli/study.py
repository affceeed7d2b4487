"""``fastpixcon study``: many trainings, compared."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastpixcon.cli.options import Verbs, add_verb
from fastpixcon.training import TrainingError

if TYPE_CHECKING:
    from rich.console import Console

    from fastpixcon.training.study import Job
    from fastpixcon.training.study_state import Folder, State

_EXAMPLES = """\
  fastpixcon study bench/studies/camvid.toml --data ../camvid --processes 2
  fastpixcon study bench/studies/camvid.toml --data ../camvid --status    what ran, what is left, how long it takes
  fastpixcon study bench/studies/camvid.toml --table --markdown           what has been found so far
  fastpixcon study bench/studies/camvid.toml --data ../camvid --retry     those that failed, too"""


def add(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "study",
        _run,
        "train arms and variants over seeds in a queue, and compare them",
        "Train what a TOML file asks for: arms of a config for several seeds, and variants, an arm with other "
        "settings, in processes of one thread each. A signal stops it with checkpoints, the same command goes on.",
        _EXAMPLES,
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="what to train: docs/training.md")
    parser.add_argument("--data", metavar="DIR", default="", help="folder of the data set, instead of FILE's")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder of the trainings, default runs/NAME")
    parser.add_argument("--processes", metavar="N", type=_count, default=1, help="trainings at a time, default 1")
    parser.add_argument("--retry", action="store_true", help="try those again that failed, from their checkpoints")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--status", action="store_true", help="train nothing: what ran and what is left")
    what.add_argument("--table", action="store_true", help="train nothing: tables of what has been found")
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")


def _run(options: argparse.Namespace) -> int:
    from fastpixcon.training import rundir, study, writing
    from fastpixcon.training.console import make_console, say
    from fastpixcon.training.interrupt import GracefulInterrupt
    from fastpixcon.training.study_queue import Queue, how_far
    from fastpixcon.training.study_state import Folder, images_of, states
    from fastpixcon.training.text import as_unicode

    asked = study.read(options.file)
    jobs = study.jobs(asked, as_unicode(options.data, "--data"))
    path = options.out or Path("runs") / asked.name
    folder, console = Folder(path, Path(asked.results) if asked.results else path), make_console()
    if options.table:
        if not any(folder.read(job) for job in jobs if not job.variant):
            raise TrainingError(f"{folder.results}: no results of a seed yet, want some for a table")
        _print_tables(jobs, folder, console, options.markdown)
        return 0
    images = images_of(jobs)
    if options.status:
        found = states(jobs, folder, images)
        _print_states(found, folder, console)
        say(console, how_far(found, options.processes))
        return 0
    writing.make_folder(path, "--out")
    held = rundir.lock(path)
    try:
        if options.retry:
            folder.write_failures({})
        say(console, f"{asked.name} in {path}: {how_far(states(jobs, folder, images), options.processes)}")
        queue = Queue(jobs, folder, images, options.processes, lambda text: say(console, text))
        with GracefulInterrupt() as interrupt:
            queue.run(lambda: interrupt.number)
        failures = {name: why for name, why in folder.failures().items() if name in {job.name for job in jobs}}
        for name, why in failures.items():
            say(console, f"{name}: failed: {why}; --retry tries it again")
        say(console, how_far(states(jobs, folder, images), options.processes))
        if interrupt.number:
            say(console, f"Stopped. Continue with: fastpixcon study {options.file}")
            return 128 + interrupt.number
        _print_tables(jobs, folder, console, options.markdown)
        return 1 if failures else 0
    finally:
        held.close()


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text}, want a number from 1 on")
    return int(text)


def _print_states(found: "Sequence[State]", folder: "Folder", console: "Console") -> None:
    from rich.markup import escape
    from rich.table import Table

    from fastpixcon.training.study_state import tail

    table = Table("training", "", "iterations", "mIoU %")
    for state in found:
        results = folder.read(state.job) if state.word == "done" else None
        scores = results["arms"].items() if results else ()
        iterations = "" if state.word == "failed" else f"{state.done} of {state.done + state.left}"
        said = tail(folder.log(state.job), 1) if state.word == "running" else state.why
        text = ", ".join(f"{arm} {100 * of_arm['miou']:.2f}" for arm, of_arm in scores) or escape(said)
        table.add_row(state.job.name, state.word, iterations, text)
    console.print(table)


def _print_tables(jobs: "Sequence[Job]", folder: "Folder", console: "Console", markdown: bool) -> None:
    """Of every score, for all classes and of groups: the arms, and what they gain seed by seed; nothing if no seed is
    done."""
    from fastpixcon.training import seeds

    runs: list[dict[str, Any]] = []
    variants: list[tuple[str, str, dict[str, Any]]] = []
    for job in jobs:
        results = folder.read(job)
        if results and not job.variant:
            arms = job.config.arms
            runs.append({**results, "arms": {arm: results["arms"][arm] for arm in arms}})
        elif results and any(run["config"]["seed"] == job.config.seed for run in runs):
            variants.append((job.variant, job.config.arms[0], results))
    together = seeds.with_variants(runs, variants)
    for score in seeds.scores_of(together) if together else ():
        compared = seeds.compare(together, score)
        for gains in (False, True) if any(arm.gain for arm in compared) else (False,):
            if markdown:
                what = f"{'gain in ' if gains else ''}{'mIoU' if score == seeds.MIOU else f'mIoU of {score}'}, %"
                print(f"**{what}**\n\n{seeds.markdown(compared, gains)}\n")
            else:
                console.print(seeds.table(compared, score, gains))
