"""Every verb as a new user would try it, on the run of a few seconds."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import tiny_arguments

from fastpixcon import cli
from fastpixcon.training import job
from fastpixcon.training.config import shipped
from fastpixcon.training.trained import load_trained

VERBS = (
    *("train", "inspect", "eval", "predict", "tsne", "table", "study"),
    *("export", "zoo", "config", "plan", "check", "bench"),
)


@pytest.mark.parametrize("verb", VERBS)
def test_help_says_enough(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([verb, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert f"fastpixcon {verb}" in text.partition("examples:")[2]


def test_eval_repeats_what_training_measured(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = [str(finished_run / name) for name in ("ce", "ce+contrast")]
    assert cli.main(["eval", *arms, "--json", str(tmp_path / "scores.json")]) == 0
    assert "mIoU %" in capsys.readouterr().out
    scores = json.loads((tmp_path / "scores.json").read_text())
    results = json.loads((finished_run / "results.json").read_text())["arms"]
    for arm, name in zip(arms, ("ce", "ce+contrast"), strict=True):
        assert scores[arm]["miou"] == results[name]["miou"]
        assert scores[arm]["confusion"] == results[name]["evaluations"][-1]["confusion"]


def test_eval_repeats_what_training_measured_in_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a processor with bfloat16 instructions; without them autocast is slow, but computes the same way.
    monkeypatch.setattr(job, "pick_precision", lambda name, device: "bf16" if name == "auto" else name)
    run = tmp_path / "run"
    assert cli.main(tiny_arguments(run, "precision='auto'", "arms=['ce']", "schedule.epochs=1")) == 0
    assert cli.main(["eval", str(run / "ce"), "--json", str(tmp_path / "scores.json")]) == 0
    (score,) = json.loads((tmp_path / "scores.json").read_text()).values()
    arm = json.loads((run / "results.json").read_text())["arms"]["ce"]
    assert score["confusion"] == arm["evaluations"][-1]["confusion"]


def test_eval_at_several_scales_and_mirrored(finished_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    arguments = ["eval", str(finished_run / "ce"), "--scales", "0.5", "1", "1.5", "--flip", "--json", str(file)]
    assert cli.main(arguments) == 0
    (score,) = json.loads(file.read_text()).values()
    assert np.sum(score["confusion"]) == 4 * 64 * 64  # every pixel of val, once


def test_export_and_what_it_is_good_for(finished_run: Path, tmp_path: Path) -> None:
    half, plain = tmp_path / "half.pt", tmp_path / "plain.pt"
    assert cli.main(["export", str(finished_run / "ce"), "--half", "--out", str(half)]) == 0
    assert cli.main(["export", str(finished_run / "ce"), "--plain", "--out", str(plain)]) == 0
    assert half.stat().st_size < 0.6 * (finished_run / "ce" / "model.pt").stat().st_size
    whole, again = load_trained(finished_run / "ce"), load_trained(half)
    images = torch.rand(1, 3, 64, 64)
    logits = [t.model.eval()(images)["logits"] for t in (whole, again)]
    assert (logits[0] - logits[1]).norm() < 0.01 * logits[0].norm()
    state = torch.load(plain, weights_only=True)
    assert state.keys() == whole.model.plain_state_dict().keys()


def test_predict_writes_maps(finished_run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "scene.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(picture)
    out = tmp_path / "maps"
    arguments = ["predict", str(finished_run / "ce+contrast"), str(picture), "--out", str(out), "--pixel", "80,10"]
    assert cli.main(arguments) == 0
    ids = np.array(Image.open(out / "scene_ids.png"))
    assert ids.shape == (70, 90)
    assert ids.max() < 11
    for name in ("scene_classes.png", "scene_similar.png"):
        assert np.array(Image.open(out / name).convert("RGB")).std() > 10


def test_tsne_draws_a_panel_a_network(finished_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "pictures" / "tsne.png"
    arms = [str(finished_run / name) for name in ("ce", "ce+contrast")]
    assert cli.main(["tsne", *arms, "--pixels", "12", "--out", str(file)]) == 0
    picture = Image.open(file)
    assert picture.width > 1.5 * picture.height


def test_config_lists_shows_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == shipped().keys()
    assert cli.main(["config", "digits"]) == 0
    mine = tmp_path / "mine.toml"
    mine.write_text(capsys.readouterr().out)
    assert cli.main(["config", str(mine), "--set", "seed=5"]) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 5


def test_bench_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "list"]) == 0
    assert re.search(r"^mining +\w", capsys.readouterr().out, flags=re.MULTILINE)


def test_tensorboard_has_scalars_and_pictures(finished_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished_run / "ce+contrast")).Reload()
    assert {"val/miou", "val/accuracy"} <= set(events.Tags()["scalars"])
    assert "val/0" in events.Tags()["images"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "nothing.pt"], "MODEL: got 'nothing.pt', want a file"),
        (["eval", "{run}"], "no model.pt in it, want one of its arms: {run}/ce"),
        (["eval", "{run}/config.json"], "no checkpoint of this program"),
        (["eval", "{run}/ce/checkpoint.pt"], "no trained network of this program"),
        (["eval", "{run}/ce", "--data", "nowhere"], "data.root: got 'nowhere', want none"),
        (["predict", "{run}/ce", "{run}/config.json"], "{run}/config.json: cannot be read: no picture"),
        (["predict", "{run}/ce", "{picture}", "--pixel", "64,0"], "--pixel: got 64,0, want x below 64"),
        (["config", "nothing"], "config: got 'nothing', want a TOML file or one of"),
        (["table", "nowhere"], "no such file, want the directory of a finished run"),
        (["bench", "nothing"], "bench: got 'nothing', want one of"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], message: str, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 32)).save(picture)
    places = {"run": str(finished_run), "picture": str(picture)}
    out = ["--out", str(tmp_path / "out")] if arguments[0] == "predict" else []
    assert cli.main([part.format(**places) for part in arguments] + out) == 2
    assert message.format(**places) in capsys.readouterr().err
