"""What is wrong with files of a folder is said of all of them, before training."""

import time
from pathlib import Path

import numpy as np
import pytest
from own_folders import COLOURS, build, describe, label_of, opened, write_colours, write_ids, write_pair

from fastpixcon.training import TrainingError, console
from fastpixcon.training.data import open_dataset
from fastpixcon.training.data.survey import ALONE, UNKNOWN, Survey, read_pair


def complaint(root: Path, **folder: object) -> list[str]:
    """The lines of the error."""
    with pytest.raises(TrainingError) as caught:
        opened(root, **folder)
    head, *lines = str(caught.value).split("\n")
    assert head == f"{root}: has files that can't be trained on:"
    return [line.strip() for line in lines]


def test_all_faults_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    for i in range(14):
        write_pair(tmp_path / "images" / "train" / f"{i:02d}.jpg", tmp_path / "labels" / "train" / f"{i:02d}.png", i)
    build(tmp_path)
    describe(tmp_path, 'classes = ["a", "b", "c", "d"]')
    labels = tmp_path / "labels" / "train"
    for i in range(5):
        (labels / f"{i:02d}.png").unlink()
    (tmp_path / "images" / "train" / "05.jpg").unlink()
    write_ids(labels / "06.png", label_of(0)[:-1])
    for i, ids in ((7, (0, 77)), (8, (77, 88)), (9, (4, 255))):
        write_ids(labels / f"{i:02d}.png", label_of(0, ids))
    (labels / "10.png").write_bytes(b"no picture")
    (tmp_path / "images" / "train" / "11.jpg").write_bytes(b"no picture")
    write_ids(tmp_path / "labels" / "val" / "val1.png", label_of(0, (0, 77)))
    lines = complaint(tmp_path)
    images = tmp_path / "images" / "train"
    assert lines[0] == "5 pictures without a label: " + "; ".join(str(images / f"0{i}.jpg") for i in range(3)) + "; ..."
    assert lines[1] == f"1 label without a picture: {labels}/05.png"
    assert lines[2].startswith(f"1 label of another size than the picture: {labels}/06.png: got 24x15 px, want 24x16")
    assert lines[3].startswith(f"2 files that can't be read as wanted: {labels}/10.png: cannot be read: no picture")
    assert f"{images}/11.jpg: cannot be read" in lines[3]
    assert lines[4].startswith(
        f"4 labels with ids that nothing names: {labels}/07.png; {labels}/08.png; {labels}/09.png; ..."
    )
    assert "They have 77 (3 labels), " in lines[4]
    assert "88 (1 label)" in lines[4]
    assert "4 (1 label)" in lines[4]
    assert "want 0 to 3, 255 and 65535, or these in classes or ignore of dataset.toml" in lines[4]
    assert len(lines) == 5


def test_colours_that_nothing_names(tmp_path: Path) -> None:
    build(tmp_path, write_colours)
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nsky,0,0,0\nroad,128,0,0\n")
    (line,) = complaint(tmp_path)
    assert line.startswith("4 labels with colours that nothing names: ")
    for colour in COLOURS[2:]:
        assert f"{colour.tolist()} (4 labels)" in line
    data = opened(tmp_path, ignore=(tuple(COLOURS[2].tolist()), tuple(COLOURS[3].tolist())))
    assert list(data.classes) == ["sky", "road"]


def test_classes_that_occur_nowhere_are_said(tmp_path: Path) -> None:
    build(tmp_path)
    describe(tmp_path, 'classes = ["a", "b", "c", "d", "e", "f"]')
    for label in (tmp_path / "labels" / "train").iterdir():
        write_ids(label, label_of(1, (0, 1, 2)))
    data = opened(tmp_path)
    assert "2 of 6 classes occur nowhere: e, f" in data.notes
    assert "1 of 6 classes is in no label to train on: d" in data.notes


def test_a_split_without_any_pair(tmp_path: Path) -> None:
    build(tmp_path)
    for label in (tmp_path / "labels" / "train").iterdir():
        label.rename(label.with_name(f"of {label.name}"))
        (tmp_path / "images" / "train" / f"{label.stem}.jpg").rename(
            tmp_path / "images" / "train" / f"{label.stem}7.jpg"
        )
    with pytest.raises(TrainingError, match="2 pictures without a label"):
        opened(tmp_path)


def test_labels_of_a_kind_that_most_are_not(tmp_path: Path) -> None:
    build(tmp_path)
    describe(tmp_path, 'classes = ["a", "b", "c", "d"]\nlabel_kind = "ids"')
    write_colours(tmp_path / "labels" / "train" / "train1.png", label_of(0))
    (line,) = complaint(tmp_path)
    assert line.startswith("1 file that can't be read as wanted")
    assert "train1.png: got colours, want one channel of class ids" in line


def test_without_checks_faults_are_there_to_be_counted(tmp_path: Path) -> None:
    from own_folders import data_of

    build(tmp_path)
    describe(tmp_path, 'classes = ["a", "b", "c"]')
    (tmp_path / "labels" / "train" / "train1.png").unlink()
    data = open_dataset(data_of(tmp_path), check=False)
    survey = Survey.of(data.train, 3)
    survey.add(read_pair(data.train, 0)[0])
    assert {kind: len(texts) for kind, texts in survey.faults.items()} == {ALONE: 1, UNKNOWN: 1}
    with pytest.raises(TrainingError, match="--data: has files"):
        data.train.check()  # type: ignore[attr-defined]


def test_reading_many_labels_is_quick_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """10,000 in a minute: here small ones, of which a file is most; and a line every so often."""
    write_pair(tmp_path / "images" / "0.jpg", tmp_path / "labels" / "0.png", 0)
    for i in range(1, 400):
        for kind, suffix in (("images", "jpg"), ("labels", "png")):
            (tmp_path / kind / f"{i}.{suffix}").hardlink_to(tmp_path / kind / f"0.{suffix}")
    monkeypatch.setattr(console, "LINE_EVERY", 0)
    started = time.process_time()
    data = opened(tmp_path)
    assert time.process_time() - started < 400 * 0.006 * 2
    assert (len(data.train), len(data.val)) == (320, 80)
    assert "reading labels: 400 of 400 labels (100 %)" in capsys.readouterr().out
    assert np.array_equal(data.val[0][1].numpy(), label_of(0))


def test_ids_from_one_on_are_known_by_what_is_one_too_many(tmp_path: Path) -> None:
    build(tmp_path, lambda path, ids: write_ids(path, ids + 1))
    describe(tmp_path, 'classes = ["a", "b", "c", "d"]')
    (line,) = complaint(tmp_path)
    assert "They have 4 (4 labels)" in line
    assert line.endswith("reduce_zero_label = true is for ids from 1 on")
    assert len(opened(tmp_path, reduce_zero_label=True).train) == 2
