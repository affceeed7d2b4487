"""Pictures of every kind that ``predict`` is given: what it refuses, before the work."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_decoding import with_orientation

from fastpixcon import cli
from fastpixcon.training.figures import Shown, own_images


def test_predict_reads_as_training_does(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photograph, out = tmp_path / "p.jpg", tmp_path / "out"
    Image.new("RGB", (64, 32), (9, 9, 9)).save(photograph, exif=with_orientation(6))
    assert cli.main(["predict", str(finished_run / "ce"), str(photograph), "--out", str(out)]) == 0
    assert Image.open(out / "p_ids.png").size == (32, 64)
    depth = tmp_path / "depth.tif"
    Image.fromarray(np.zeros((32, 64), np.float32)).save(depth)
    large = tmp_path / "large.ppm"
    large.write_bytes(b"P6 20000 20000 255\n")
    missing = tmp_path / "missing.png"
    os.mkfifo(tmp_path / "pipe")
    capsys.readouterr()
    good = tmp_path / "good.png"
    Image.new("RGB", (64, 32), (9, 9, 9)).save(good)
    for path, part in (
        (depth, "got a picture of mode F"),
        (large, "400000000 pixels"),
        (missing, "No such file"),
        (tmp_path, "is a folder, want a file"),
        (tmp_path / "pipe", "is a pipe, want a file"),
    ):
        assert cli.main(["predict", str(finished_run / "ce"), str(good), str(path), "--out", str(out)]) == 2
        assert not list(out.glob("good*"))  # headers come before the work
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"fastpixcon: {path}: ")
        assert part in line


def test_predict_says_which_image_is_too_large_for_the_network(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.png"
    Image.new("RGB", (64, 32)).save(path)

    def full(shown: Shown, image: torch.Tensor, device: torch.device) -> torch.Tensor:
        return torch.empty(2**60, dtype=torch.uint8)  # as much as torch refuses everywhere

    monkeypatch.setattr(own_images, "class_map", full)
    assert cli.main(["predict", str(finished_run / "ce"), str(path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"fastpixcon: {path}: 64x32 px are more than the network has memory for\n"
