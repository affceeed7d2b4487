"""The page docs/own-pictures.md: its commands run on a folder as it has it, its descriptions are what it says."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter
from test_folder_runs import SMALL, pictures

from fastpixcon import cli
from fastpixcon.training import config
from fastpixcon.training.config import toml
from fastpixcon.training.data.folder import read_description
from fastpixcon.training.description import Folder

PAGE = Path(__file__).resolve().parents[2] / "docs" / "own-pictures.md"


def blocks(kind: str) -> list[str]:
    found = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    return found


@pytest.mark.usefixtures("figures_are_drawn")
def test_the_commands_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With settings for a test beside them."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    pictures(Path("photographs"), 10, np.array([0, 1, 2, 255], np.uint8))
    Path("photographs/photos").rename("photographs/images")
    Path("photographs/masks").rename("photographs/labels")
    Path("photographs/classes.txt").write_text("background\nroad\ntree\n")
    Path("new").mkdir()
    Image.open("photographs/images/00.JPG").save("new/a.jpg")
    done = []
    for line in "\n".join(blocks("")).splitlines():
        if line.startswith("fastpixcon "):
            verb, *rest = shlex.split(line.removeprefix("fastpixcon "))
            rest = [str(file) for word in rest for file in (sorted(Path().glob(word)) if "*" in word else [word])]
            small = [v for v in SMALL if "iterations" not in v] + ["schedule.epochs=1"]
            if verb == "train" and "--resume" in rest:
                rest[-1], small = "schedule.epochs=2", []
            if verb in ("inspect", "train"):
                rest += [part for value in small for part in ("--set", value)]
            assert cli.main([verb, *rest]) == 0, line
            done.append(verb)
    assert done == ["inspect", "train", "predict", "eval", "tsne", "export", "train"]
    out = capsys.readouterr().out
    assert "val: 2 of 10 images, drawn by their names" in out
    assert "labels are ids; 3 classes, of classes.txt" in out
    assert "mIoU %" in out
    for file in ("maps/a_ids.png", "maps/a_classes.png", "tsne.png", "photographs.pt", "runs/photographs/results.json"):
        assert Path(file).is_file(), file
    names = set(re.findall(r"`(\w+\.png)`", PAGE.read_text(encoding="utf-8").split("`figures/`")[1].partition("\n")[0]))
    assert names == {file.name for file in Path("runs/photographs/figures").iterdir()}


def test_the_descriptions_and_the_config_are_read(tmp_path: Path) -> None:
    for text in blocks("toml"):
        if text.startswith("# dataset.toml"):
            (tmp_path / "dataset.toml").write_text(text)
            assert read_description(tmp_path) != Folder()
        else:
            (tmp_path / "mine.toml").write_text(text)
            assert config.load(str(tmp_path / "mine.toml")).data.folder == Folder(val_share=0.1)
    keys = set(TypeAdapter(Folder).json_schema()["properties"])
    assert keys >= {key for text in blocks("toml") if text.startswith("# dataset") for key in toml(text, "")}
