"""What a run that goes on may change, what not, and how its schedule goes on."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.forked import forked
from test_run import ARMS, INTERRUPTED, assert_same, checkpoint_of
from tiny_run import tiny_arguments

from fastpixcon import cli
from fastpixcon.training import TrainingError, config, job, resuming, rundir
from fastpixcon.training.engine import Arm, Runtime
from fastpixcon.training.optimisation import rate_factor

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A finished run that can be changed."""
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"


def resume(run: Path, *values: str) -> int:
    return cli.main(["train", "--resume", "--out", str(run), *(part for value in values for part in ("--set", value))])


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """Standard output in one line."""
    return " ".join(capsys.readouterr().out.split())


def test_what_is_not_mathematics_may_change(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "ce" / "checkpoint.pt").read_bytes()
    assert (
        resume(run, "data.workers=1", "tensorboard=false", "figures.tsne_pixels=12", "schedule.evaluate_every=2") == 0
    )
    assert "finished before" in capsys.readouterr().out
    assert (run / "ce" / "checkpoint.pt").read_bytes() == before
    now = rundir.read_config(run)
    assert (now.data.workers, now.tensorboard, now.figures.tsne_pixels) == (1, False, 12)
    assert now.schedule.epochs == 2  # all else is the run's
    changes = json.loads((run / "results.json").read_text())["changes"]
    assert changes == rundir.read_changes(run)
    assert [c["key"] for c in changes] == [
        "data.workers",
        "figures.tsne_pixels",
        "schedule.evaluate_every",
        "tensorboard",
    ]
    assert changes[0] == {
        "key": "data.workers",
        "before": None,
        "after": 1,
        "done": {"warm": 1, "ce": 8, "ce+contrast": 8},
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("schedule.batch=8", "schedule.batch: the run has 4, got 8"),
        ("schedule.learning_rate=0.5", "schedule.learning_rate: the run has 0.003, got 0.5"),
        ("seed=3", "seed: the run has 0, got 3"),
        ("contrast.min_pixels=3", "contrast.min_pixels: the run has none, got 3"),
        ("arms=['ce']", "arms: the run has ['ce', 'ce+contrast'], got ['ce']"),
        ("evaluation.flip=true", "evaluation.flip: the run has False, got True"),
        ("schedule.earlier=[[1, 2]]", ""),
    ],
)
def test_what_can_not_change_is_named_alone(
    value: str, message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "config.json").read_bytes()
    if not message:  # what --resume writes is not said by hand
        assert resume(run, value) == 0
        assert not rundir.read_config(run).schedule.earlier
        return
    assert resume(run, value, "data.workers=1", "schedule.epochs=3") == 2
    error = capsys.readouterr().err
    assert f"--resume: can't change in a run that has begun, {run}; a new run can have it:\n  {message}\n" in error
    assert len(error.splitlines()) == 2
    assert (run / "config.json").read_bytes() == before


def test_the_config_of_another_run_is_named_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--resume", "--out", str(run), "--config", "camvid"]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"fastpixcon: --config: got camvid, of the name 'camvid', but the run in {run} is 'digits'; "
        "leave it out: a run that goes on has its config\n"
    )
    assert cli.main(["train", "--resume", "--out", str(run), "--config", "digits"]) == 2
    error = capsys.readouterr().err  # it is an earlier state of this one: what it says is not what the run has
    assert "  schedule.batch: the run has 4, got 8\n" in error
    assert "precision" not in error  # "auto" is what the run has
    assert "device" not in error


def test_longer_is_longer_for_all_arms_at_the_same_rates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One arm is finished, the other is not: both then do what a run with these rates does from the start."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert cli.main(tiny_arguments(whole, "schedule.epochs=3", "schedule.earlier=[[8, 8]]")) == 0
    stopped = forked(INTERRUPTED, "ce+contrast", "5", *tiny_arguments(out))
    assert stopped.returncode == 130, stopped.stderr
    capsys.readouterr()
    assert resume(out, "schedule.epochs=3") == 0
    settings = rundir.read_config(out)
    jump = settings.schedule.learning_rate * (1 - 8 / 12) ** settings.schedule.power
    assert (
        "schedule.epochs: 12 iterations instead of 8, for all arms, finished ones too (trained so far: warm 1, ce 8, "
        "ce+contrast 6). Up to iteration 8 the learning rate is that of 8 iterations, from there on that of 12: it "
        f"goes from 0 to {jump:.3g} there"
    ) in told(capsys)
    assert settings == rundir.read_config(whole)
    assert settings.schedule.epochs == 3
    assert settings.schedule.earlier == ((8, 8),)
    assert {"schedule.earlier", "schedule.epochs"} == {change["key"] for change in rundir.read_changes(out)}
    for arm in ARMS:
        ours, theirs = checkpoint_of(out, arm), checkpoint_of(whole, arm)
        assert ours["done"] == 12
        for key in ("model", "optimizer", "contrast", "random"):
            assert_same(ours[key], theirs[key], f"{arm} {key}")
    results = json.loads((out / "results.json").read_text())
    assert [e["iteration"] for e in results["arms"]["ce"]["evaluations"]] == [4, 8, 12]
    assert torch.load(out / "ce" / "model.pt", weights_only=True)["results"]["iteration"] == 12


def test_the_rate_follows_the_length_of_its_time() -> None:
    settings = config.load("digits", ["schedule.warmup=0", "schedule.power=1.0", "schedule.earlier=[[4, 8], [10, 20]]"])
    rates = [rate_factor(done, 40, settings.schedule) for done in (3, 4, 9, 10, 39)]
    assert rates == pytest.approx([1 - 3 / 8, 1 - 4 / 20, 1 - 9 / 20, 1 - 10 / 40, 1 - 39 / 40])


def test_shorter_than_done_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert resume(run, "schedule.epochs=1") == 2
    assert (
        "--resume: schedule.epochs: got 1, which is 4 iterations, want at least 2: trained so far are warm 1, ce 8, "
        "ce+contrast 8"
    ) in capsys.readouterr().err
    assert resume(run, "schedule.iterations=7") == 2
    assert "schedule.iterations: got 7, which is 7 iterations, want at least 8" in capsys.readouterr().err
    assert not rundir.read_changes(run)


def test_an_epoch_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert cli.main(tiny_arguments(out, "arms=['ce']", "schedule.iterations=5")) == 0
    assert resume(out, "schedule.iterations=10") == 0
    state = checkpoint_of(out, "ce")
    assert (state["done"], state["evaluated"]) == (10, 3)
    history: Any = state["history"]
    assert [e["iteration"] for e in history["evaluations"]] == [4, 5, 8, 10]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_another_precision_is_told(precision: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And back: a GradScaler is there in fp16 alone."""
    assert resume(run, f"precision='{precision}'", "schedule.epochs=3") == 0
    line = f"precision: 'fp32' -> '{precision}', rounds otherwise: from here on not bit for bit what it would have been"
    assert line in told(capsys)
    assert checkpoint_of(run, "ce")["done"] == 12
    assert bool(checkpoint_of(run, "ce")["scaler"]) == (precision == "fp16")
    assert resume(run, "precision='fp32'", "schedule.epochs=4") == 0
    assert checkpoint_of(run, "ce")["done"] == 16
    assert not checkpoint_of(run, "ce")["scaler"]


def on_cuda(run: Path) -> None:
    """As if it had been trained on a GPU."""
    rundir.write_json(run / "config.json", json.loads((run / "config.json").read_text()) | {"device": "cuda"})
    for arm in ARMS:
        path = run / arm / "checkpoint.pt"
        state = torch.load(path, weights_only=True)
        state["device"] = "cuda"
        for group in state["optimizer"]["param_groups"]:
            group["fused"] = True
        state["random"][0]["cuda"] = [torch.zeros(16, dtype=torch.uint8)] * 8
        torch.save(state, path)


def test_a_run_on_a_gpu_goes_on_on_a_cpu(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cuda(run)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resume(run, "schedule.epochs=3") == 2
    error = capsys.readouterr().err
    assert f"device: the run in {run} was on 'cuda', but torch sees no GPU here; --set device=cpu goes on" in error
    assert resume(run, "schedule.epochs=3", "device=cpu") == 0
    assert "device: 'cuda' -> 'cpu', rounds otherwise" in told(capsys)
    assert rundir.read_config(run).device == "cpu"
    state: Any = checkpoint_of(run, "ce")
    assert state["done"] == 12
    assert not any(group["fused"] for group in state["optimizer"]["param_groups"])
    assert state["meter"]["cross_entropy"]["calls"] == 3  # times of this device alone, but for the one with memory


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_run_changes_between_cpu_and_gpu(run: Path) -> None:
    assert resume(run, "schedule.epochs=3", "device=cuda") == 0
    state: Any = checkpoint_of(run, "ce")
    assert all(group["fused"] for group in state["optimizer"]["param_groups"])
    assert resume(run, "schedule.epochs=4", "device=cpu") == 0
    state = checkpoint_of(run, "ce")
    assert state["done"] == 16
    assert not any(group["fused"] for group in state["optimizer"]["param_groups"])


def test_an_arm_more(run: Path) -> None:
    """It starts where the warm-up of the others ended."""
    before = (run / "ce" / "checkpoint.pt").read_bytes()
    assert resume(run, "arms=['ce', 'ce+contrast', 'ce+contrast+mining']") == 0
    results = json.loads((run / "results.json").read_text())["arms"]
    assert list(results) == ["ce", "ce+contrast", "ce+contrast+mining"]
    assert results["ce+contrast+mining"]["cross_entropy"][:2] == results["ce"]["cross_entropy"][:2]
    assert (run / "ce" / "checkpoint.pt").read_bytes() == before


def test_a_finished_arm_without_its_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is not trained anew in silence."""
    (run / "ce" / "checkpoint.pt").unlink()
    assert resume(run) == 2
    assert f"{run / 'ce' / 'checkpoint.pt'}: no such file, but model.pt beside it" in capsys.readouterr().err


def test_as_many_processes_as_before(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # said before they join
    assert resume(run) == 2
    assert "written by 1 processes, want as many to go on, got 2: each has its own random state" in (
        capsys.readouterr().err
    )


def test_other_data_are_not_the_same_run(run: Path) -> None:
    settings, data = job.prepare(rundir.read_config(run))
    path = run / "ce" / "checkpoint.pt"
    torch.save({**torch.load(path, weights_only=True), "images": 17}, path)
    runtime = Runtime(torch.device("cpu"), "fp32", lambda: False, lambda arm: None, lambda arm: None)
    with pytest.raises(TrainingError, match=r"data.root: got 16 images to train, want the 17 that .*checkpoint.pt was"):
        Arm(settings, "ce", data, run / "ce", runtime)


def test_the_documented_table_is_the_one_that_holds() -> None:
    rows = re.findall(r"^\| (`[^|]*`) \| (free|told|length|fixed) \|", DOCS.read_text(), re.MULTILINE)
    documented = {key: kind for keys, kind in rows for key in re.findall(r"`([^`]+)`", keys)}

    def kind_of(key: str) -> str | None:
        parts = key.split(".")
        return next((documented[k] for k in (key, parts[0]) if k in documented), None)

    for key in config.flat(config.load("digits")):
        expected = (
            "free" if any(key == free or key.startswith(f"{free}.") for free in resuming.FREE)
            else "told" if key in resuming.TOLD
            else "length" if key in resuming.LENGTH
            else "fixed"
        )  # fmt: skip
        assert kind_of(key) == expected, key
