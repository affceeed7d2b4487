"""The trainings of a study, so many processes at a time, of one thread each."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fastpixcon.training import TrainingError, config, rundir, writing
from fastpixcon.training.console import duration
from fastpixcon.training.study import Job
from fastpixcon.training.study_state import (
    RESULTS_FILE,
    Folder,
    State,
    check_same,
    in_use,
    seconds_left,
    states,
    tail,
)
from fastpixcon.training.text import read_json

_ASK_EVERY = 0.2  # seconds
_COMMAND = (sys.executable, "-m", "fastpixcon")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Queue:
    """Starts what is left, in the order of ``jobs``, and collects results; a job that fails is not tried again.

    A signal goes on to the trainings, each of which leaves a checkpoint and goes on from there in another queue.
    Trainings are in sessions of their own, so that a terminal's Ctrl-C reaches them once, through this queue.
    """

    def __init__(
        self, jobs: Sequence[Job], folder: Folder, images: int, processes: int, say: Callable[[str], None]
    ) -> None:
        self.jobs, self.folder, self.images, self.processes, self.say = jobs, folder, images, processes, say
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.started: dict[str, float] = {}

    def run(self, stop_requested: Callable[[], int]) -> None:
        """Until nothing is left that can run, or everything has stopped after ``stop_requested`` gave a signal."""
        try:
            self._run(stop_requested)
        except BaseException:  # none trains on unseen
            self._stop()
            for process in self.running.values():
                process.wait()
            raise

    def _run(self, stop_requested: Callable[[], int]) -> None:
        left = [job for job in self.jobs if not self._is_over(job)]
        told = False
        while left or self.running:
            stopping = stop_requested()
            if stopping and not told:
                told = True
                self._stop()
            for job in [job for job in self.jobs if job.name in self.running]:
                status = self.running[job.name].poll()
                if status is not None:
                    self._ended(job, status, bool(stopping))
            if stopping:
                if not self.running:
                    return
            else:
                left = self._start_some(left)
            time.sleep(_ASK_EVERY)

    def _is_over(self, job: Job) -> bool:
        if self.folder.read(job) or job.name in self.folder.failures():
            return True
        # A run that was over when a queue before this one was not there to see it.
        return not in_use(self.folder.run(job)) and self.folder.collect(job) is not None

    def _start_some(self, left: list[Job]) -> list[Job]:
        """Those that have not been started."""
        if len(self.running) >= self.processes:
            return left
        waiting = []
        foreign = [job.name for job in left if in_use(self.folder.run(job))]  # a queue that was killed left it running
        names = {job.name for job in left}
        for job in left:
            if job.name in foreign:
                waiting.append(job)
            elif self._is_over(job):
                self.say(f"{job.name}: done")
            elif len(self.running) + len(foreign) >= self.processes or self._waits(job, names):
                waiting.append(job)
            else:
                self._start(job)
        return waiting

    def _waits(self, job: Job, left: set[str]) -> bool:
        """For the first iterations of another, which are to come."""
        first_to_come = job.first in left or job.first in self.running
        return first_to_come and not self.folder.has_begun(self.folder.run(job)) and not self.folder.warm(job)

    def _start(self, job: Job) -> None:
        run, log = self.folder.run(job), self.folder.log(job)
        warm = self.folder.warm(job)
        if warm and not self.folder.has_begun(run):
            self._share(job, warm)
        arguments = ["train", "--out", str(run)]
        if self.folder.has_begun(run):
            stored = rundir.read_config(run)
            check_same(job, stored, run)
            arguments += ["--resume"]
            changes = [] if stored.arms == job.config.arms else [f"arms={_list(job.config.arms)}"]
            if job.config.data.root != stored.data.root:
                arguments += ["--data", job.config.data.root]
        else:
            _remove_beginning(run)
            writing.make_folder(run.parent, "--out")
            arguments += ["--config", job.source]
            changes = list(job.changes)
        arguments += [part for change in changes for part in ("--set", change)]
        environment = os.environ | dict.fromkeys(_THREADS, "1")
        with log.open("ab") as file:
            self.running[job.name] = subprocess.Popen(
                [*_COMMAND, *arguments],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True,
            )  # fmt: skip
        self.started[job.name] = time.monotonic()
        how = ", resumed" if "--resume" in arguments else ""
        self.say(f"{job.name}: started{how}; {log}")

    def _share(self, job: Job, warm: Path) -> None:
        """A run directory as a training would have left it after the first iterations; its config comes last, since
        that is what makes it one."""
        run = self.folder.run(job)
        writing.make_folder(run, "--out")
        target = run / warm.name
        target.unlink(missing_ok=True)
        try:
            os.link(warm, target)  # no process writes into such a file: another takes its place
        except OSError:
            writing.write(target, lambda file: shutil.copyfileobj(warm.open("rb"), file))
        first = rundir.read_config(warm.parent)
        # Of "auto", and of what labels of a folder mean, what the first run found.
        found = config.to_tree(job.config) | {"device": first.device, "precision": first.precision}
        found["data"] = config.to_tree(first)["data"]
        rundir.write_config(run, config.parse(found))

    def _stop(self) -> None:
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)

    def _ended(self, job: Job, status: int, stopping: bool) -> None:
        del self.running[job.name]
        took = duration(time.monotonic() - self.started[job.name])
        results = self.folder.collect(job) if status == 0 else None
        if results:
            scores = ", ".join(f"{arm} {100 * found['miou']:.2f}" for arm, found in results["arms"].items())
            self.say(f"{job.name}: done in {took}: mIoU {scores}; {self._how_far()}")
        elif stopping and status:
            self.say(f"{job.name}: stopped after {took}")
        else:
            why = self._why(job, status)
            self.folder.write_failures(self.folder.failures() | {job.name: why})
            self.say(f"{job.name}: failed after {took}: {why}; {self._how_far()}")

    def _why(self, job: Job, status: int) -> str:
        results = self.folder.run(job) / RESULTS_FILE
        if status == 3 and results.is_file():
            lost = read_json(results, "the results of a run").get("not_finite", {})
            if lost:
                return "; ".join(f"{arm}: not finite in iteration {at['iteration']}" for arm, at in lost.items())
        how = f"ended by {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return f"{how}: {tail(self.folder.log(job))}"

    def _how_far(self) -> str:
        return how_far(states(self.jobs, self.folder, self.images, list(self.running)), self.processes)


def how_far(found: Sequence[State], processes: int) -> str:
    """``3 of 10 done, 1 failed, about 3 h 20 min left``."""
    words = [state.word for state in found]
    parts = [f"{words.count('done')} of {len(words)} done"]
    if failed := words.count("failed"):
        parts.append(f"{failed} failed")
    if any(state.left for state in found):
        left = seconds_left(found, processes)
        parts.append("nobody knows how long the rest takes" if left is None else f"about {duration(left)} left")
    return ", ".join(parts)


def _list(values: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"


def _remove_beginning(run: Path) -> None:
    """Of a training that was ended before it had a config: its lock, or first iterations that it was to take over."""
    if not run.exists():
        return
    strange = sorted(path.name for path in run.iterdir() if path.name not in (".lock", "warm.pt"))
    if strange:
        raise TrainingError(f"--out: {run} has {', '.join(strange)} and no {rundir.CONFIG_FILE}, want it removed")
    shutil.rmtree(run)
