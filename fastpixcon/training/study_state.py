"""How far the trainings of a study are, by what is on disk: results, checkpoints, failures. Nothing here trains.

In the folder of a study every job has a run directory and a log of its name; its results, the run's ``results.json``
without the place of the data, go to the folder of results, from where they may be kept.
"""

import heapq
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastpixcon.training import TrainingError, checkpoint, config, rundir, seeds, writing
from fastpixcon.training.config import Config
from fastpixcon.training.data import open_dataset
from fastpixcon.training.optimisation import Length
from fastpixcon.training.study import Job
from fastpixcon.training.text import read_json

_FAILED_FILE = "failed.json"
RESULTS_FILE = "results.json"  # of a run


@dataclass(frozen=True)
class State:
    """``left`` and ``done``: iterations that the job trains itself; ``seconds``: an iteration's, evaluation included,
    None before it has trained any."""

    job: Job
    word: Literal["done", "failed", "running", "begun", "waiting"]
    done: int
    left: int
    seconds: float | None
    why: str = ""  # it failed


class Folder:
    """What is on disk of a study.

    Args:
        path: of the study; run directories and logs are in it.
        results: where results go.
    """

    def __init__(self, path: Path, results: Path) -> None:
        self.path, self.results = path, results

    def run(self, job: Job) -> Path:
        return self.path / job.name

    def log(self, job: Job) -> Path:
        return self.path / f"{job.name}.log"

    def result(self, job: Job) -> Path:
        return self.results / f"{job.name}.json"

    def warm(self, job: Job) -> Path | None:
        """The first iterations that the job takes over, where they are there."""
        path = self.path / job.first / "warm.pt"
        return path if job.first and path.is_file() and self.has_begun(self.path / job.first) else None

    @staticmethod
    def has_begun(run: Path) -> bool:
        return (run / rundir.CONFIG_FILE).is_file()

    def failures(self) -> dict[str, str]:
        """Name of the job -> why, in words."""
        path = self.path / _FAILED_FILE
        found = read_json(path, "the failures of a study") if path.is_file() else {}
        if not isinstance(found, dict):
            raise TrainingError(f"{path}: no failures of a study: got {type(found).__name__}, want a table")
        return found

    def write_failures(self, failures: dict[str, str]) -> None:
        rundir.write_json(self.path / _FAILED_FILE, failures)

    def read(self, job: Job) -> dict[str, Any] | None:
        """The results of a job, None where there are none, or not of all of its arms."""
        path = self.result(job)
        if not path.is_file():
            return None
        results = seeds.read(path)
        check_same(job, config.parse(results["config"], str(path)), path)
        return results if set(job.config.arms) <= results["arms"].keys() else None

    def collect(self, job: Job) -> dict[str, Any] | None:
        """Results of a run that is over, put where results go."""
        run = self.run(job)
        if not (run / RESULTS_FILE).is_file():
            return None
        results = seeds.read(run)
        check_same(job, config.parse(results["config"]), run)
        if not set(job.config.arms) <= results["arms"].keys():
            return None
        results["config"]["data"]["root"] = ""  # where the data lay is nobody else's business
        writing.make_folder(self.result(job).parent, "results")
        rundir.write_json(self.result(job), results)
        return results


def check_same(job: Job, found: Config, where: Path) -> None:
    """Raise ``TrainingError`` if a run or its results are of other settings than those of the job."""
    wanted = job.config
    automatic = {key for key in ("device", "precision") if getattr(wanted, key) == "auto"}
    free = (seeds.MAY_DIFFER | automatic | {"data.folder"}) - {"seed"}
    different = [
        key
        for key in config.differences(wanted, found)
        if not any(key == one or key.startswith(f"{one}.") for one in free)
    ]
    if different:
        before, after = config.flat(found), config.flat(wanted)
        lines = [f"  {key}: got {before.get(key)!r}, the study wants {after.get(key)!r}" for key in different]
        raise TrainingError(
            f"{where}: of another study; want another name or --out for this one, or that removed:\n" + "\n".join(lines)
        )


def images_of(jobs: Sequence[Job]) -> int:
    """To train on; the data are those of all jobs."""
    return len(open_dataset(jobs[0].config.data, check=False).train)


def states(jobs: Sequence[Job], folder: Folder, images: int, running: Sequence[str] = ()) -> list[State]:
    """Of every job; ``images``: to train on; ``running``: names of those whose process is known, beside those whose run
    directory is in use."""
    failures = folder.failures()
    return [_state(job, folder, failures.get(job.name), job.name in running, images) for job in jobs]


def _state(job: Job, folder: Folder, failure: str | None, running: bool, images: int) -> State:
    run, length = folder.run(job), Length.of(job.config.schedule, images).iterations
    warmup, arms = job.config.contrast.warmup, job.config.arms
    shared = [bool(job.first), *(True for _ in arms[1:])]
    total = sum(length - (warmup if takes else 0) for takes in shared)
    results = folder.read(job)
    if results:
        trained = [results["arms"][arm] for arm in arms]
        seconds = sum(arm["train_seconds"] + arm["evaluate_seconds"] for arm in trained)
        return State(job, "done", total, 0, seconds / max(sum(arm["iterations"] for arm in trained), 1))
    if failure is not None:
        return State(job, "failed", 0, 0, None, failure)
    done, iterations, seconds = 0, 0, 0.0
    if folder.has_begun(run):
        check_same(job, rundir.read_config(run), run)
        for arm, takes in zip(arms, shared, strict=True):
            path = run / arm / "checkpoint.pt"
            if path.is_file():
                state = checkpoint.load(path, lazily=True)
                done += state["done"] - (warmup if takes else 0)
                iterations += state["done"]
                seconds += state["history"]["train_seconds"] + state["history"]["evaluate_seconds"]
    word: Literal["running", "begun", "waiting"] = "begun" if folder.has_begun(run) else "waiting"
    if running or in_use(run):
        word = "running"
    return State(job, word, done, total - done, seconds / iterations if iterations else None)


def in_use(run: Path) -> bool:
    """Whether a process trains there."""
    if not (run / ".lock").is_file():
        return False
    try:
        rundir.lock(run).close()
    except TrainingError:
        return True
    return False


def seconds_left(found: Sequence[State], processes: int) -> float | None:
    """Until all jobs are over, so many at a time, each as fast as those were of which it is known; None: of none."""
    known = [(state.seconds, state.done) for state in found if state.seconds is not None]
    if not known:
        return None
    weight = sum(max(done, 1) for _, done in known)
    mean = sum(seconds * max(done, 1) for seconds, done in known) / weight
    free = [0.0] * processes
    for state in found:
        if state.left:
            start = heapq.heappop(free)
            heapq.heappush(free, start + state.left * mean)
    return max(free)


def tail(log: Path, lines: int = 3) -> str:
    """The last lines of a log that say something."""
    if not os.path.isfile(log):
        return "it said nothing"
    said = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return " | ".join(said[-lines:]) or "it said nothing"
