"""The command line from end to end, on a run of a few seconds."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from harness.forked import forked
from PIL import Image
from tiny_run import python, tiny_arguments

from fastpixcon import cli
from fastpixcon.training import TrainingError, rundir
from fastpixcon.training.config import load

ARMS = ("ce", "ce+contrast")

# Runs the command line and sends SIGINT to itself in iteration argv[2] of arm argv[1], and again, as the same request,
# while the checkpoint is being written.
INTERRUPTED = """
import os, signal, sys
from fastpixcon import cli
from fastpixcon.training import checkpoint, engine, interrupt

interrupt._SAME_REQUEST = 60
arm, iteration = sys.argv[1], int(sys.argv[2])
step, save = engine.Arm._step, checkpoint.torch.save

def interrupted_step(self, *arguments):
    if (self.name, self.done) == (arm, iteration):
        os.kill(os.getpid(), signal.SIGINT)
        checkpoint.torch.save = interrupted_save
    step(self, *arguments)

def interrupted_save(*arguments):
    os.kill(os.getpid(), signal.SIGINT)
    save(*arguments)

engine.Arm._step = interrupted_step
sys.exit(cli.main(sys.argv[3:]))
"""


def test_the_run_leaves_results(finished_run: Path) -> None:
    results = json.loads((finished_run / "results.json").read_text())
    assert results["config"] == json.loads((finished_run / "config.json").read_text())
    assert len(results["classes"]) == 11
    for name in ARMS:
        arm = results["arms"][name]
        assert 0 <= arm["miou"] <= 1
        assert len(arm["iou"]) == 11
        assert len(arm["cross_entropy"]) == arm["iterations"] == 8
        assert len(arm["evaluations"]) == 2
        assert arm["losses"]["cross_entropy"]["seconds"] > 0
    assert "contrast" not in results["arms"]["ce"]["losses"]
    contrast = results["arms"]["ce+contrast"]
    assert contrast["contrast"][0] is None  # warm-up
    assert all(value is not None and value >= 0 for value in contrast["contrast"][1:])
    assert contrast["losses"]["contrast"]["seconds"] > 0


def test_both_arms_start_alike(finished_run: Path) -> None:
    arms = json.loads((finished_run / "results.json").read_text())["arms"]
    assert arms["ce"]["cross_entropy"][:2] == arms["ce+contrast"]["cross_entropy"][:2]
    assert arms["ce"]["cross_entropy"][-1] != arms["ce+contrast"]["cross_entropy"][-1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_run_on_cuda(tmp_path: Path) -> None:
    assert cli.main(tiny_arguments(tmp_path / "run", "device='cuda'")) == 0
    arms = json.loads((tmp_path / "run" / "results.json").read_text())["arms"]
    assert all(0 < loss < 10 for name in ARMS for loss in arms[name]["cross_entropy"])
    assert all(value >= 0 for value in arms["ce+contrast"]["contrast"][1:])


@pytest.mark.parametrize("name", ["curves.png", "predictions.png", "tsne.png", "similarity.png", "confusion.png"])
def test_figures_are_not_blank(finished_run: Path, name: str) -> None:
    picture = np.array(Image.open(finished_run / "figures" / name).convert("RGB"))
    assert min(picture.shape[:2]) > 300
    assert picture.std() > 10
    assert len(np.unique(picture @ np.array([1 << 16, 1 << 8, 1]))) > 100  # colours


def test_the_exported_model_has_no_head(finished_run: Path) -> None:
    stored = torch.load(finished_run / "ce" / "model.pt", weights_only=True)
    assert not any("projection" in key for key in stored["model"])
    assert stored["config"]["data"]["root"] == ""


def test_interrupted_and_resumed_is_bit_for_bit_the_same(finished_run: Path, tmp_path: Path) -> None:
    # Interrupted in the middle of an epoch of either arm; with a worker, where the other run had none.
    out = tmp_path / "run"
    arguments = tiny_arguments(out, "data.workers=1")
    first = python(INTERRUPTED, "ce", "1", *arguments)
    assert first.returncode == 130, first.stderr
    assert f"--resume --out {out}" in first.stdout
    assert checkpoint_of(out, "ce")["done"] == 2
    second = forked(INTERRUPTED, "ce+contrast", "6", "train", "--resume", "--out", str(out))
    assert second.returncode == 130, second.stderr
    assert checkpoint_of(out, "ce+contrast")["done"] == 7
    assert not list(out.rglob(".fastpixcon-*"))
    assert cli.main(["train", "--resume", "--out", str(out)]) == 0
    for arm in ARMS:
        ours, theirs = checkpoint_of(out, arm), checkpoint_of(finished_run, arm)
        for key in ("model", "optimizer", "contrast", "random"):
            assert_same(ours[key], theirs[key], f"{arm} {key}")
        assert_same(ours["history"]["cross_entropy"], theirs["history"]["cross_entropy"], arm)
        assert_same(ours["history"]["evaluations"], theirs["history"]["evaluations"], arm)


def test_resuming_a_finished_run_only_reports_again(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished_run / "ce" / "checkpoint.pt").read_bytes()
    assert cli.main(["train", "--resume", "--out", str(finished_run)]) == 0
    assert "finished before" in capsys.readouterr().out
    assert (finished_run / "ce" / "checkpoint.pt").read_bytes() == before


def test_a_taken_directory_is_left_alone(tmp_path: Path) -> None:
    wanted = tmp_path / "runs" / "x"
    folders = []
    for _ in range(3):
        folders.append(rundir.create(wanted))
        rundir.write_config(folders[-1], load("digits"))
    assert [f.name for f in folders] == ["x", "x-2", "x-3"]
    assert rundir.latest(wanted) == folders[-1]


def test_one_process_per_directory(tmp_path: Path) -> None:
    with rundir.lock(tmp_path), pytest.raises(TrainingError, match="another process"):
        rundir.lock(tmp_path)
    rundir.lock(tmp_path).close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "--out", "nothing"], "--resume: no run in nothing"),
        (["--set", "schedule.epoch=1"], "schedule.epoch: unknown key"),
        (["--data", "nowhere"], "data.root: got 'nowhere', want CamVid's folder"),
        (["--config", "digits", "--data", "somewhere"], "data.root: got 'somewhere', want none"),
        (["--seed", "-1"], "seed: got -1"),
        (
            ["--set", "schedule.batch=9999", "--set", "data.scenes.train=4", "--set", "data.scenes.val=2"],
            "schedule.batch: got 9999, want at most",
        ),
    ],
)
def test_mistakes_end_with_a_message_and_leave_no_directory(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("config.json"))


def checkpoint_of(out: Path, arm: str) -> dict[str, object]:
    state: dict[str, object] = torch.load(out / arm / "checkpoint.pt", weights_only=True)
    return state


def assert_same(a: object, b: object, where: str) -> None:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict) and isinstance(b, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where} {key}")
    elif isinstance(a, list) and isinstance(b, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where} {i}")
    else:
        assert a == b, where
