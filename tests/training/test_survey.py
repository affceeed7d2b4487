"""What the files of a split hold and what is wrong with them, counted to the end."""

from pathlib import Path

import numpy as np
import pytest
from data_layouts import LAYOUTS, SIZE, Built, every_id, write_image, write_label
from tiny_run import TINY

from fastpixcon.training import TrainingError, config
from fastpixcon.training.data import IGNORE, open_dataset
from fastpixcon.training.data.survey import ALONE, SIZES, UNKNOWN, UNREADABLE, Survey, read_pair


def surveyed(built: Built, split: str = "train") -> Survey:
    data = open_dataset(built.data(), check=False)
    files = getattr(data, split)
    survey = Survey.of(files, len(data.classes))
    for index in range(len(files)):
        survey.add(read_pair(files, index)[0])
    return survey


@pytest.fixture(params=LAYOUTS)
def built(request: pytest.FixtureRequest, tmp_path: Path) -> Built:
    return LAYOUTS[request.param].build(tmp_path, 3)


def test_pixels_images_and_sizes_are_those_of_the_files(built: Built) -> None:
    ids = built.layout.train_ids
    counted = [k for k in ids.values() if k != IGNORE]
    write_label(built.pairs[0][1], every_id([raw for raw, k in ids.items() if k == 0]))
    found = surveyed(built)
    labels = [every_id([0]), *[every_id(list(ids.values()))] * 2]  # of train ids
    wanted = sum(np.bincount(label.ravel(), minlength=256) for label in labels)
    assert found.pixels.tolist() == wanted[: max(counted) + 1].tolist()
    assert found.ignored == wanted[IGNORE]
    assert found.occurs.tolist() == [3, *[2] * max(counted)]
    assert (found.images, found.sizes, found.faults) == (3, {SIZE: 3}, {})


def test_every_kind_of_fault_is_counted_and_the_rest_is_read(built: Built) -> None:
    ids = built.layout.train_ids
    (image, label), (_, other), (third, _) = built.pairs[:3]
    unknown, known = built.layout.unknown, min(ids)
    write_label(label, every_id([unknown, known]))
    write_label(other, every_id([known])[:-1])
    third.write_bytes(third.read_bytes()[:20])
    found = surveyed(built)
    assert {kind: len(texts) for kind, texts in found.faults.items()} == {UNKNOWN: 1, SIZES: 1, UNREADABLE: 1}
    assert found.faults[UNKNOWN][0].startswith(f"{label}: got the ids [{unknown}]")
    assert found.faults[SIZES][0].startswith(f"{other}: got 24x15 px, want 24x16")
    assert found.faults[UNREADABLE][0].startswith(f"{third}: cannot be read")
    assert (found.images, found.faulty, int(found.pixels.sum())) == (0, 3, 0)
    assert surveyed(built, "val").images == 3
    image.unlink()
    again = surveyed(built)
    assert len(again.faults[ALONE]) == 1
    assert image.stem in again.faults[ALONE][0] or str(label) in again.faults[ALONE][0]
    assert UNKNOWN not in again.faults
    with pytest.raises(TrainingError):
        open_dataset(built.data())


def test_a_label_that_is_no_picture_is_not_one_of_another_size(tmp_path: Path) -> None:
    built = LAYOUTS["camvid"].build(tmp_path)
    built.pairs[0][1].write_bytes(b"none")
    write_image(built.pairs[1][1], 3)  # three channels
    assert {kind: len(texts) for kind, texts in surveyed(built).faults.items()} == {UNREADABLE: 2}


def test_embedded_scenes_have_no_files() -> None:
    data = open_dataset(config.load("digits", TINY).data, check=False)
    survey = Survey.of(data.train, len(data.classes))
    for index in range(len(data.train)):
        facts, label = read_pair(data.train, index)
        assert label is not None
        survey.add(facts)
    assert survey.images == 16
    assert survey.sizes == {(64, 64): 16}
    assert survey.pixels.sum() == 16 * 64 * 64
    assert survey.tree()["faults"] == {}
