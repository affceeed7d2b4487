"""The queue of a study: by a stand-in for trainings that takes no time, and once by trainings themselves."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest
from harness.forked import Forked
from tiny_run import NO_FIGURES, TINY, tiny_arguments

from fastpixcon import cli
from fastpixcon.training import TrainingError, config, rundir, study, study_queue
from fastpixcon.training.study import Job
from fastpixcon.training.study_queue import Queue
from fastpixcon.training.study_state import Folder, State, seconds_left, states

IMAGES = 16  # of TINY
# ``train``: what it does and says is in DIR.json beside the run directory DIR; it tells when it begins and ends.
STAND_IN = """
import json, signal, sys, time
from pathlib import Path

arguments = sys.argv[1:]
run = Path(arguments[arguments.index("--out") + 1])
plan = json.loads(Path(sys.argv[0]).with_name("plans.json").read_text())[run.name]
diary = Path(sys.argv[0]).with_name("diary")

def note(what):
    with diary.open("a") as file:
        file.write(json.dumps([what, run.name, "--resume" in arguments]) + "\\n")

def stop(*_):
    note("stopped")
    sys.exit(143)

signal.signal(signal.SIGTERM, stop)
run.mkdir(parents=True, exist_ok=True)
note("began")
if not (run / "config.json").exists():
    (run / "config.json").write_text(json.dumps(plan["config"]))
if plan.get("warm"):
    (run / "warm.pt").write_text("first iterations")
time.sleep(plan.get("seconds", 0))
if status := plan.get("status", 0):
    print("it went wrong")
    sys.exit(status)
(run / "results.json").write_text(json.dumps({"config": plan["config"], "arms": plan["arms"]}))
note("ended")
"""
VARIANT = '[variants.few]\narm = "ce+contrast"\nset = ["contrast.max_views=7"]'


class Training(Forked):
    """As the queue starts one, without the seconds of its imports."""

    def __init__(self, arguments: list[str], stdout: BinaryIO, **_: object) -> None:
        code = f"{NO_FIGURES}from fastpixcon.cli import command\ncommand()"
        super().__init__(code, *arguments, own_group=True, stdout=stdout)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


class Trial:
    """A study of two seeds of digits in a folder, trained by the stand-in."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, more: str = "", **plans: dict[str, Any]) -> None:
        self.file, self.here = folder / "study.toml", folder
        self.file.write_text(f'name = "trial"\nconfig = "digits"\nseeds = [0, 1]\nset = {json.dumps(TINY)}\n{more}')
        self.jobs = study.jobs(study.read(self.file))
        self.folder = Folder(folder / "runs", folder / "results")
        script = folder / "stand_in.py"
        script.write_text(STAND_IN)
        monkeypatch.setattr(study_queue, "_COMMAND", (sys.executable, "-S", str(script)))
        self.plans = {job.name.rpartition("/")[2]: self._plan(job) for job in self.jobs}
        self.change(**plans)
        self.said: list[str] = []

    @staticmethod
    def _plan(job: Job) -> dict[str, Any]:
        arm = {"miou": 0.5, "iterations": 10, "train_seconds": 18.0, "evaluate_seconds": 2.0}
        return {"config": config.to_tree(job.config), "arms": dict.fromkeys(job.config.arms, arm)}

    def change(self, **plans: dict[str, Any]) -> None:
        for name, plan in plans.items():
            self.plans[name.replace("_", "-")] |= plan
        (self.here / "plans.json").write_text(json.dumps(self.plans))

    def run(self, processes: int = 1, stop: Callable[[], int] = lambda: 0) -> None:
        Queue(self.jobs, self.folder, IMAGES, processes, self.said.append).run(stop)

    def diary(self) -> list[tuple[str, str, bool]]:
        lines = (self.here / "diary").read_text().splitlines()
        return [tuple(json.loads(line)) for line in lines]

    def began(self) -> list[str]:
        return [name for what, name, _ in self.diary() if what == "began"]

    def words(self) -> list[str]:
        return [state.word for state in states(self.jobs, self.folder, IMAGES)]


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_everything_is_trained_once_and_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(tmp_path, monkeypatch, VARIANT)
    trial.plans["seed-0"]["config"]["data"]["root"] = "/home/somebody"
    trial.change()
    assert trial.words() == ["waiting"] * 4
    trial.run()
    assert trial.began() == ["seed-0", "seed-1", "few-seed-0", "few-seed-1"]
    assert trial.words() == ["done"] * 4
    results = json.loads((tmp_path / "results" / "seed-0.json").read_text())
    assert results["arms"]["ce"]["miou"] == 0.5
    assert results["config"]["data"]["root"] == ""
    assert (tmp_path / "results" / "variants" / "few-seed-1.json").is_file()
    assert "seed-0: done in 0 s: mIoU ce 50.00, ce+contrast 50.00; 1 of 4 done" in "\n".join(trial.said)
    trial.run()
    assert len(trial.began()) == 4


def test_so_many_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = {"seconds": 0.6, "warm": True}
    trial = Trial(tmp_path, monkeypatch, VARIANT, seed_0=slow, seed_1=slow)
    trial.run(processes=2)
    running, most = 0, 0
    for what, _, _ in trial.diary():
        running += 1 if what == "began" else -1
        most = max(most, running)
    assert most == 2
    assert trial.words() == ["done"] * 4


def test_what_fails_is_shown_and_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(tmp_path, monkeypatch, seed_0={"status": 2})
    trial.run()
    trial.run()
    assert trial.began() == ["seed-0", "seed-1"]
    assert trial.words() == ["failed", "done"]
    assert states(trial.jobs, trial.folder, IMAGES)[0].why == "status 2: it went wrong"
    assert "1 of 2 done, 1 failed" in trial.said[-1]
    trial.folder.write_failures({})  # --retry
    trial.change(seed_0={"status": 0})
    trial.run()
    assert trial.diary()[-1] == ("ended", "seed-0", True)
    assert trial.words() == ["done", "done"]


def test_a_training_that_somebody_ends_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(tmp_path, monkeypatch, seed_0={"seconds": 60})
    queue = Queue(trial.jobs, trial.folder, IMAGES, 1, trial.said.append)
    thread = threading.Thread(target=queue.run, args=[lambda: 0])
    thread.start()
    wait_until(lambda: (tmp_path / "diary").is_file())
    queue.running["seed-0"].send_signal(signal.SIGKILL)
    thread.join(60)
    assert trial.folder.failures() == {"seed-0": "ended by SIGKILL: it said nothing"}
    assert trial.words() == ["failed", "done"]


def test_a_signal_stops_all_and_another_queue_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = {"seconds": 60}
    trial = Trial(tmp_path, monkeypatch, seed_0=slow, seed_1=slow)
    trial.run(2, lambda: signal.SIGINT if (tmp_path / "diary").is_file() and len(trial.began()) == 2 else 0)
    assert sorted(what for what, _, _ in trial.diary()) == ["began", "began", "stopped", "stopped"]
    assert trial.words() == ["begun", "begun"]
    assert trial.folder.failures() == {}
    trial.change(seed_0={"seconds": 0}, seed_1={"seconds": 0})
    trial.run()
    assert trial.diary()[-4:] == [
        (what, name, True) for name in ("seed-0", "seed-1") for what in ("began", "ended")
    ]  # with --resume


def test_none_trains_on_when_the_queue_ends_in_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(tmp_path, monkeypatch, seed_0={"seconds": 60})

    def broken(text: str) -> None:
        wait_until(lambda: (tmp_path / "diary").is_file())
        raise OSError(text)

    with pytest.raises(OSError, match="seed-0: started"):
        Queue(trial.jobs, trial.folder, IMAGES, 1, broken).run(lambda: 0)
    assert [what for what, _, _ in trial.diary()] == ["began", "stopped"]


def test_a_training_that_a_queue_left_running_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(tmp_path, monkeypatch)
    run = tmp_path / "runs" / "seed-0"
    run.mkdir(parents=True)
    held = rundir.lock(run)
    assert trial.words() == ["running", "waiting"]

    def finish() -> None:
        wait_until(lambda: (tmp_path / "results" / "seed-1.json").is_file())
        rundir.write_json(run / "results.json", trial.plans["seed-0"])
        held.close()

    thread = threading.Thread(target=finish)
    thread.start()
    trial.run(processes=2)
    thread.join(60)
    assert trial.began() == ["seed-1"]
    assert trial.words() == ["done", "done"]


def test_a_variant_begins_with_the_first_iterations_of_its_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for them, not for the end of the arms; where nobody leaves any, it trains them itself."""
    trial = Trial(tmp_path, monkeypatch, VARIANT, seed_0={"warm": True, "seconds": 1.5}, seed_1={"status": 2})
    trial.run(processes=2)
    diary = trial.diary()
    assert diary.index(("began", "few-seed-0", True)) < diary.index(("ended", "seed-0", False))
    run = tmp_path / "runs" / "variants" / "few-seed-0"
    assert (run / "warm.pt").samefile(tmp_path / "runs" / "seed-0" / "warm.pt")
    found = config.parse(json.loads((run / "config.json").read_text()))
    assert (found.contrast.max_views, found.arms, found.seed) == (7, ("ce+contrast",), 0)
    assert ("began", "few-seed-1", False) in diary


def test_results_and_runs_of_other_settings_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(tmp_path, monkeypatch)
    trial.run()
    other = Trial(tmp_path, monkeypatch, 'arms = ["ce"]')
    assert other.words() == ["done", "done"]  # of the arms that are asked for
    other.file.write_text(other.file.read_text().replace("schedule.epochs=2", "schedule.epochs=99"))
    jobs = study.jobs(study.read(other.file))
    message = r"(?s)results/seed-0.json: of another study.*schedule\.epochs: got \d+, the study wants 99"
    with pytest.raises(TrainingError, match=message):
        states(jobs, other.folder, IMAGES)
    with pytest.raises(TrainingError, match=r"(?s)runs/seed-0: of another study"):
        states(jobs, Folder(other.folder.path, tmp_path / "empty"), IMAGES)


def test_how_long_the_rest_takes() -> None:
    job = Job("seed-0", "digits", ())

    def state(done: int, left: int, seconds: float | None) -> State:
        return State(job, "waiting", done, left, seconds)

    found = [state(10, 0, 2.0), state(30, 10, 4.0), state(0, 20, None), state(0, 20, None)]
    assert seconds_left(found, 1) == pytest.approx(50 * 3.5)  # 10 iterations of 2 s, 30 of 4 s
    assert seconds_left(found, 2) == pytest.approx(30 * 3.5)  # 10 and 20 on one, 20 on the other
    assert seconds_left(found[2:], 2) is None


def test_the_command_tables_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = Trial(tmp_path, monkeypatch, f'results = "{tmp_path}/results"\n{VARIANT}', few_seed_1={"status": 2})
    trial.plans["seed-0"]["arms"] |= {"ce+contrast": trial.plans["seed-0"]["arms"]["ce"] | {"miou": 0.52}}
    trial.plans["seed-1"]["arms"] |= {"ce+contrast": trial.plans["seed-0"]["arms"]["ce"] | {"miou": 0.51}}
    trial.change()
    command = ["study", str(trial.file), "--out", str(trial.folder.path)]
    assert cli.main([*command, "--table"]) == 2
    assert "no results of a seed yet" in capsys.readouterr().err
    assert cli.main(command) == 1
    said = capsys.readouterr().out
    assert "variants/few-seed-1: failed: status 2: it went wrong; --retry tries it again" in said
    assert "3 of 4 done, 1 failed" in said
    assert cli.main([*command, "--table", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| ce+contrast | 52.00 | 51.00 | 51.50 | 0.71 | +1.50 | +1.00 | 0.205 |" in lines
    assert "| ce+contrast | +2.00 | +1.00 | +1.50 | 0.71 | +1.00 (seed 1) | 0.205 |" in lines
    assert "| few | 50.00 | - | 50.00 | - | +0.00 | +0.00 | - |" in lines
    assert cli.main([*command, "--status"]) == 0
    said = capsys.readouterr().out
    assert all(part in said for part in ("status 2: it went wrong", "ce 50.00, ce+contrast 52.00", "3 of 4 done"))
    trial.change(few_seed_1={"status": 0})
    assert cli.main([*command, "--retry"]) == 0


def test_trainings_stopped_and_resumed_give_what_they_would_have_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_queue, "_COMMAND", ())
    monkeypatch.setattr(study_queue, "subprocess", SimpleNamespace(Popen=Training, DEVNULL=None))
    file = tmp_path / "study.toml"
    settings = json.dumps([*TINY, "tensorboard=false"])
    variant = '[variants.few]\narm = "ce+contrast+memory"\nset = ["contrast.max_views=3"]'
    file.write_text(f'name = "tiny"\nconfig = "digits"\nseeds = [0]\nset = {settings}\n{variant}')
    jobs, folder = study.jobs(study.read(file)), Folder(tmp_path / "runs", tmp_path / "runs")
    said: list[str] = []
    begun = folder.run(jobs[0]) / "warm.pt"
    Queue(jobs, folder, IMAGES, 1, said.append).run(lambda: signal.SIGTERM if begun.is_file() else 0)
    (found, waiting) = states(jobs, folder, IMAGES)
    assert (found.word, waiting.word) == ("begun", "waiting")
    assert 0 < found.done < found.done + found.left == 8 + 7
    assert found.seconds is not None
    assert found.seconds > 0
    Queue(jobs, folder, IMAGES, 1, said.append).run(lambda: 0)
    assert any("seed-0: started, resumed" in line for line in said), said
    assert [state.word for state in states(jobs, folder, IMAGES)] == ["done", "done"]
    # The same, each by itself.
    assert cli.main(tiny_arguments(tmp_path / "whole", "tensorboard=false")) == 0
    alone = ["arms=['ce+contrast+memory']", "contrast.max_views=3", "tensorboard=false"]
    assert cli.main(tiny_arguments(tmp_path / "alone", *alone)) == 0
    for job, name in zip(jobs, ("whole", "alone"), strict=True):
        whole = json.loads((tmp_path / name / "results.json").read_text())
        queued = folder.read(job)
        assert queued is not None
        assert queued["changes"] == []
        for arm in job.config.arms:
            for key in ("cross_entropy", "contrast", "iou"):
                assert queued["arms"][arm][key] == whole["arms"][arm][key]
