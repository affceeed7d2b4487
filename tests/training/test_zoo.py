"""The networks that come with the package: each is a row of the table in the README, and small."""

import json
import os
from pathlib import Path

import pytest
import torch

from fastpixcon import cli
from fastpixcon.training import config, seeds, zoo
from fastpixcon.training.trained import load_trained

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / "bench" / "camvid"
CARD = ROOT / "docs" / "zoo.md"
ENTRIES = zoo.entries()


def test_there_are_networks_without_and_with_contrast() -> None:
    assert {entry.arm for entry in ENTRIES} >= {"ce", "ce+contrast"}
    assert all(entry.bytes < 8 * 2**20 for entry in ENTRIES)


def test_the_list_has_what_the_card_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["zoo"]) == 0
    listed, card = capsys.readouterr().out, CARD.read_text()
    for entry in ENTRIES:
        for part in (entry.name, entry.sha256, f"{100 * entry.miou:.2f}"):
            assert part in listed
            assert part in card


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_network_is_of_a_run_of_the_study(entry: zoo.Entry) -> None:
    trained = load_trained(zoo.path_of(entry.name))
    run = seeds.read(STUDY / f"seed-{trained.config.seed}.json")
    assert entry.miou == run["arms"][entry.arm]["miou"]
    different = set(config.differences(trained.config, config.parse(run["config"]))) - {"data.root", "arms"}
    # Cross-entropy alone does not depend on the contrast.
    assert all(entry.arm == "ce" and key.startswith("contrast.") for key in different)
    with torch.no_grad():
        outputs = trained.model.eval()(torch.rand(1, 3, 64, 96))
    assert outputs["logits"].shape[1] == len(trained.classes) == 11
    assert all(value.isfinite().all() for value in outputs.values())


# CamVid is not ours to ship: a clean clone has none.
@pytest.mark.skipif("FASTPIXCON_CAMVID" not in os.environ, reason="FASTPIXCON_CAMVID: the folder of CamVid")
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_eval_repeats_the_row(entry: zoo.Entry, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    assert cli.main(["eval", entry.name, "--data", os.environ["FASTPIXCON_CAMVID"], "--json", str(file)]) == 0
    (score,) = json.loads(file.read_text()).values()
    assert abs(score["miou"] - entry.miou) < 2e-4  # its filters are float16
