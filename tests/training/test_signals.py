"""Signals end a training with a checkpoint, a verb with nothing half-written, and tell whoever started them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from harness.forked import Forked
from PIL import Image
from test_processes import SETTINGS, torchrun_command
from tiny_run import tiny_arguments

from fastpixcon.training import checkpoint

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# The command, which says in a file that it has come to PLACE, and waits there.
WAITS = """
import sys, time
from pathlib import Path
from fastpixcon.cli import command
from fastpixcon.training import checkpoint, evaluation, figures, job
from fastpixcon.training.engine import Arm
from fastpixcon.training.figures import own_images

place, seconds, here = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
if place != "figures":  # they take longer than the training
    job._draw = lambda *_: ([], [])

def wait(*_):
    if not here.exists():
        here.touch()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.01)

def then(owner, name):
    work = getattr(owner, name)
    def both(*arguments, **options):
        wait()
        return work(*arguments, **options)
    setattr(owner, name, both)

if place == "step":
    step = Arm._step
    def second_step(self, *arguments):
        if self.done == 1:
            wait()
        step(self, *arguments)
    Arm._step = second_step
else:
    then(*{
        "start": (job, "prepare"),
        "evaluation": (evaluation, "logits_of"),
        "save": (checkpoint.torch, "save"),
        "figures": (figures, "draw_all"),
        "predict": (own_images, "class_map"),
    }[place])
sys.argv[1:] = sys.argv[4:]
command()
"""


Process = Forked | subprocess.Popen[str]


def started(code: str, *arguments: str, fresh: bool, ignoring: int | None = None) -> Process:
    """In a group of its own, as a shell starts it; a fresh interpreter, or a fork."""
    if not fresh:
        return Forked(code, *arguments, own_group=True, ignored=ignoring)

    def ignore() -> None:
        if ignoring is not None:
            signal.signal(ignoring, signal.SIG_IGN)

    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True, preexec_fn=ignore,
    )  # fmt: skip


def wait_for(file: Path, process: Process) -> None:
    end = time.monotonic() + 200
    while not file.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def at(
    place: str, seconds: float, folder: Path, signals: Callable[[int], object], *arguments: str, fresh: bool = False,
    ignoring: int | None = None,
) -> "subprocess.CompletedProcess[str]":  # fmt: skip
    """Run the command; ``signals`` gets the number of its process group when it has come to ``place``."""
    here = folder / "here"
    process = started(WAITS, place, str(seconds), str(here), *arguments, fresh=fresh, ignoring=ignoring)
    wait_for(here, process)
    signals(process.pid)
    out, error = process.communicate(timeout=200)
    assert "Traceback" not in out + error, error
    return subprocess.CompletedProcess(arguments, process.returncode, out, error)


def status(number: int) -> int:
    """A shell goes on with its loop unless SIGINT itself ended the command."""
    return -signal.SIGINT if number == signal.SIGINT else 128 + number


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_leaves_a_checkpoint_and_says_so(number: int, tmp_path: Path) -> None:
    """To the whole group, workers of the loader too, and twice, as timeout(1) and schedulers send it."""
    run = tmp_path / "run"

    def twice(group: int) -> None:
        os.killpg(group, number)
        time.sleep(0.05)
        os.killpg(group, number)

    arguments = tiny_arguments(run, "data.workers=2", 'arms=["ce"]')
    done = at("step", 0.6, tmp_path, twice, *arguments, fresh=number == signal.SIGINT)
    assert done.returncode == status(number), done.stderr
    assert f"--resume --out {run}" in done.stdout
    assert f"{signal.Signals(number).name}: stopping after this iteration" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert checkpoint.load(run / "ce" / "checkpoint.pt")["done"] == 2
    assert not [path for path in run.rglob("*") if "tmp" in path.name]


def test_a_second_signal_ends_a_training_at_once(tmp_path: Path) -> None:
    began = 0.0

    def twice(group: int) -> None:
        nonlocal began
        os.kill(group, signal.SIGTERM)
        time.sleep(0.6)
        began = time.monotonic()
        os.kill(group, signal.SIGTERM)

    done = at("step", 100, tmp_path, twice, *tiny_arguments(tmp_path / "run", 'arms=["ce"]'))
    assert time.monotonic() - began < 20
    assert done.returncode == 143
    assert not (tmp_path / "run" / "ce" / "checkpoint.pt").exists()


@pytest.mark.parametrize("place", ["start", "evaluation", "save", "figures"])
def test_a_signal_anywhere_in_a_training(place: str, tmp_path: Path) -> None:
    """Before the first iteration nothing is left to resume; later, what was trained is."""
    run = tmp_path / "run"
    arguments = tiny_arguments(run, 'arms=["ce"]', "schedule.epochs=1")
    done = at(place, 0.6, tmp_path, lambda group: os.kill(group, signal.SIGTERM), *arguments)
    assert done.returncode == 143, done.stderr
    if place == "start":
        assert not run.exists()
        assert done.stderr == "fastpixcon: SIGTERM: stopped; every file that was written is whole\n"
        return
    assert f"--resume --out {run}" in done.stdout
    assert checkpoint.load(run / "ce" / "checkpoint.pt")["done"] == 4
    if place == "figures":
        assert "mIoU %" in done.stdout  # the table comes before the pictures


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_what_was_ignored_stays_ignored(number: int, tmp_path: Path) -> None:
    """SIGHUP under nohup, SIGINT in the background of a script."""
    run = tmp_path / "run"
    arguments = tiny_arguments(run, 'arms=["ce"]', "schedule.iterations=2", "data.workers=1")
    fresh = number == signal.SIGINT  # which an interpreter begins with a handler of
    done = at("step", 0.6, tmp_path, lambda group: os.killpg(group, number), *arguments, fresh=fresh, ignoring=number)
    assert done.returncode == 0, done.stderr
    assert checkpoint.load(run / "ce" / "checkpoint.pt")["done"] == 2
    assert "stopping" not in done.stderr


@pytest.mark.parametrize("number", SIGNALS[:2])
def test_a_signal_ends_another_verb_with_a_line(number: int, finished_run: Path, tmp_path: Path) -> None:
    pictures = []
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(tmp_path / name)
        pictures.append(str(tmp_path / name))
    out = tmp_path / "out"
    arguments = ("predict", str(finished_run / "ce"), *pictures, "--out", str(out))
    done = at("predict", 100, tmp_path, lambda group: os.killpg(group, number), *arguments)
    assert done.returncode == status(number)
    name = signal.Signals(number).name
    assert done.stderr == f"fastpixcon: {name}: stopped; every file that was written is whole\n"
    assert not list(out.glob("*"))


def test_torchrun_passes_signals_on(tmp_path: Path) -> None:
    """SIGTERM to torchrun and to its workers, as Slurm sends it: each worker gets it twice. No worker ends before the
    checkpoint is written, for torchrun would end the others then."""
    here, run, code = tmp_path / "here", tmp_path / "run", tmp_path / "main.py"
    slow = "save = checkpoint.save\ncheckpoint.save = lambda *given: (time.sleep(8), save(*given))\n"
    code.write_text(WAITS.replace("sys.argv[1:] =", f"{slow}sys.argv[1:] ="))
    arguments = tiny_arguments(run, *SETTINGS, 'arms=["ce+contrast"]', "schedule.iterations=4", "data.workers=1")
    command = torchrun_command(code, 2, "step", "1.0", str(here), *arguments)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    wait_for(here, process)
    for pid in [process.pid, *children(process.pid)]:
        os.kill(pid, signal.SIGTERM)
    out, error = process.communicate(timeout=200)
    assert process.returncode != 0
    assert f"--resume --out {run}" in out, error
    state = torch.load(run / "ce+contrast" / "checkpoint.pt", weights_only=True)
    assert 1 <= state["done"] < 4
    assert len(state["random"]) == 2


def children(pid: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(folder.name))
    return found
