"""What took part in the contrast, in results, events and words."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import tiny_arguments

import fastpixcon as fpc
from fastpixcon import cli
from fastpixcon.training import config
from fastpixcon.training.participation import NUMBERS, OF_CLASSES, Participation, means
from fastpixcon.training.processes import Processes

CLASSES = ("road", "tree", "sign", "nowhere")


def last(anchors: list[int], segments: list[int], left_out: list[int], without_positive: int = 0) -> fpc.LastCall:
    counts = [torch.tensor(values) for values in (anchors, segments, left_out)]
    numbers = [sum(anchors), sum(segments), sum(left_out), sum(n > 0 for n in anchors), without_positive, 0]
    return fpc.LastCall(*map(torch.tensor, numbers), *counts)


def contrast(**values: Any) -> config.Contrast:
    return config.Contrast(
        **{"weight": 1.0, "warmup": 0, "temperature": 0.1, "base_temperature": 0.1, "max_samples": 100, "max_views": 9}
        | values
    )


def test_epochs_add_up_to_means() -> None:
    participation, epochs = Participation(Processes()), list[dict[str, Any]]()
    participation.read_into(epochs, 1)
    assert epochs == []  # none in the warm-up
    for anchors in (4, 6):
        participation.note(last([anchors, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]), (8, 8))
    participation.read_into(epochs, 1)
    participation.note(last([8, 0, 0, 0], [1, 0, 0, 0], [0, 2, 0, 0]), (8, 8))
    participation.read_into(epochs, 1)
    participation.note(last([1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]), (8, 8))
    participation.read_into(epochs, 2)
    assert [(entry["epoch"], entry["calls"], entry["anchors"]) for entry in means(epochs)] == [(1, 3, 6), (2, 1, 2)]
    assert means(epochs)[0]["class_left_out"] == pytest.approx([0, 4 / 3, 0, 0])
    assert participation.latest["anchors"] == 2
    assert means(epochs)[0].keys() == {"epoch", "calls", *NUMBERS, *OF_CLASSES}


@pytest.mark.parametrize(
    ("calls", "settings", "message"),
    [
        (
            [last([9, 9, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0])],
            {},
            "sign never took part in the contrast in 4 calls: no segment of theirs, a class in an image, has the 10 "
            "pixels of the map of 6 x 8 that contrast.max_views=9 asks for; a smaller contrast.min_pixels or max_views "
            "lets them take part",
        ),
        (
            [last([9, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0])],
            {"min_pixels": 20},
            "tree, sign never took part in the contrast in 4 calls: no segment of theirs, a class in an image, has the "
            "20 pixels of the map of 6 x 8 that contrast.min_pixels=20 asks for; a smaller contrast.min_pixels lets",
        ),
        (
            [last([50, 0, 0, 0], [50, 0, 0, 0], [0, 1, 0, 0])],
            {"max_samples": 50},
            "lets them take part, or was drawn where there are more than contrast.max_samples=50",
        ),
        (
            [last([0, 0, 0, 0], [0, 0, 0, 0], [2, 2, 2, 0])],
            {},
            "nothing took part in the contrast in 4 calls, its loss is 0: of 24 segments, each a class in an image, "
            "none has the 10 pixels of the map of 6 x 8",
        ),
        (
            [last([1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0], 3)],
            {"max_views": 1},
            "no anchor had a positive in 4 calls of the contrast, its loss is 0: contrast.max_views=1 and",
        ),
        ([last([9, 9, 9, 0], [1, 1, 1, 0], [1, 1, 1, 0])], {}, None),
    ],
)
def test_words(calls: list[fpc.LastCall], settings: dict[str, Any], message: str | None) -> None:
    participation, epochs = Participation(Processes()), list[dict[str, Any]]()
    for _ in range(4):
        participation.note(calls[0], (6, 8))
    participation.read_into(epochs, 1)
    found = participation.words(epochs, contrast(**settings), CLASSES, 4)
    assert found is None if message is None else message in str(found)
    if message and "never" in message:
        assert participation.words(epochs, contrast(**settings), CLASSES, 5) is None  # an epoch is not over


def scalars(folder: Path) -> dict[str, list[float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [event.value for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_a_training_tells_what_took_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    values = ("schedule.epochs=3", "arms=['ce', 'ce+contrast']", "contrast.min_pixels=30", "schedule.accumulate=2")
    assert cli.main(tiny_arguments(out, *values)) == 0
    arms = json.loads((out / "results.json").read_text())["arms"]
    assert arms["ce"]["took_part"] == []
    epochs = arms["ce+contrast"]["took_part"]
    assert [(entry["epoch"], entry["calls"]) for entry in epochs] == [(1, 6), (2, 8), (3, 8)]  # after the warm-up
    for entry in epochs:
        assert 0 < entry["anchors"] <= 128
        assert entry["anchors"] == pytest.approx(sum(entry["class_anchors"]))
        assert entry["left_out"] == pytest.approx(sum(entry["class_left_out"]))
        assert len(entry["class_segments"]) == 11
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("took part in the contrast") == 1
    words = re.search(r"ce\+contrast: ([\d, ]+) never took part in the contrast in 8 calls: no segment of theirs", text)
    assert words, text
    for k in (int(name) + 1 for name in words[1].split(", ")):
        assert epochs[0]["class_segments"][k] == 0
        assert sum(entry["class_left_out"][k] for entry in epochs[:2]) > 0
    assert "has the 30 pixels of the map of 16 x 16 that contrast.min_pixels=30 asks for" in text
    found = scalars(out / "ce+contrast")
    assert {f"contrast/{name}" for name in NUMBERS} <= found.keys()
    assert found["contrast anchors/background"] == pytest.approx([e["class_anchors"][0] for e in epochs])
    assert not any("contrast/" in name for name in scalars(out / "ce"))


def test_a_training_in_which_nothing_takes_part_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert cli.main(tiny_arguments(out, "arms=['ce+contrast']", "contrast.max_views=255", "data.scenes.digits=8")) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("ce+contrast: nothing took part in the contrast in 4 calls, its loss is 0: of ") == 1
    assert "has the 256 pixels of the map of 16 x 16 that contrast.max_views=255 asks for" in text
