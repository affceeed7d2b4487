"""What a data set is and what contrast would make of it, on pictures whose segments are known."""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from data_layouts import LAYOUTS
from PIL import Image
from tiny_run import TINY

import fastpixcon as fpc
from fastpixcon import cli
from fastpixcon.training import config, figures, inspection, own_folder, segments
from fastpixcon.training.data import IGNORE, open_dataset
from fastpixcon.training.data.loading import EpochOrder, LabelCrops, TrainSet, augmentation
from fastpixcon.training.rehearsal import map_size
from fastpixcon.training.segments import Rule, nearest

_MAPS: dict[Any, tuple[int, int]] = {}
SKY, BUILDING, POLE, BICYCLIST, VOID = 0, 1, 2, 10, 11
WHOLE = (  # every image is its own crop of 64 x 96 px, of which the map has every fourth
    "data.augmentation.crop=[64, 96]",
    "data.augmentation.scale=[1.0, 1.0]",
    "data.augmentation.flip=0.0",
    "schedule.batch=2",
    "schedule.epochs=2",
    "contrast.max_views=100",
)


def write_pair(root: Path, split: str, name: int, label: np.ndarray) -> Path:
    for kind, suffix, pixels in (("images", "jpg", np.full((*label.shape, 3), 90)), ("labels", "png", label)):
        path = root / kind / split / f"{name}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def scene(pole: bool = True, bicyclist: bool = False, building: bool = False) -> np.ndarray:
    """Sky; on the map a pole of 20 pixels, a bicyclist of 6, a building of none."""
    label = np.full((64, 96), SKY, np.uint8)
    if pole:
        label[8:28, 40:56] = POLE
    if bicyclist:
        label[40:48, 0:12] = BICYCLIST
    if building:
        label[61:63, 61:63] = BUILDING
    label[32:36] = VOID
    return label


@pytest.fixture(autouse=True)
def sizes_of_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network is built once for each crop: half a second."""

    def once(settings: config.Config) -> tuple[int, int]:
        key = settings.model, settings.data.augmentation.crop
        if key not in _MAPS:
            _MAPS[key] = map_size(settings)
        return _MAPS[key]

    monkeypatch.setattr(inspection, "map_size", once)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images to train: four poles, two bicyclists, a building; one to validate, without any of them."""
    root = tmp_path / "data"
    for name in range(4):
        write_pair(root, "train", name, scene(bicyclist=name < 2, building=name == 3))
    write_pair(root, "val", 0, scene(pole=False))
    return root


def inspected(root: Path | None, *values: str, name: str = "out.json", status: int = 0) -> Any:
    """The JSON of the verb."""
    file = (root.parent if root else Path.cwd()) / name
    data = ["--config", "camvid", "--data", str(root)] if root else []
    changes = [part for value in values for part in ("--set", value)]
    assert cli.main(["inspect", *data, *changes, "--json", str(file), "--overwrite"]) == status
    return json.loads(file.read_text())


def by_class(tree: Any, numbers: Sequence[Any]) -> dict[str, Any]:
    return {name: number for name, number in zip(tree["classes"], numbers, strict=True) if number}


def test_small_objects_are_left_out_until_they_are_asked_for(folder: Path) -> None:
    tree = inspected(folder, *WHOLE)
    contrast = tree["contrast"]
    assert (contrast["map"], contrast["calls"], contrast["crops"], contrast["epochs"]) == ([16, 24], 4, 8, 2)
    assert by_class(tree, contrast["segments_in_crops"]) == {"sky": 8, "building": 2, "pole": 8, "bicyclist": 4}
    assert by_class(tree, contrast["segments_on_map"]) == {"sky": 8, "pole": 8, "bicyclist": 4}
    assert by_class(tree, contrast["nine_in_ten_have"]) == {"sky": 24 * 15 - 20 - 6, "pole": 20, "bicyclist": 6}
    now = contrast["tried"][0]
    assert by_class(tree, now["segments"]) == {"sky": 8}
    assert by_class(tree, now["left_out"]) == {"pole": 8, "bicyclist": 4}
    assert by_class(tree, now["anchors"]) == {"sky": 800}
    assert now["share"][BUILDING] is None
    assert (now["share"][SKY], now["share"][POLE], now["anchors_a_call"]) == (1, 0, 200)
    for values, taken in ((("contrast.min_pixels=20",), 8), (("contrast.min_pixels=21",), 0)):
        found = inspected(folder, *WHOLE, *values)
        assert found["contrast"]["tried"][0]["segments"][POLE] == taken
    assert by_class(found, inspected(folder, *WHOLE, "contrast.max_views=19")["contrast"]["tried"][0]["anchors"]) == {
        "sky": 8 * 19,
        "pole": 8 * 19,
    }


@pytest.mark.parametrize("values", [(), ("contrast.max_samples=3",), ("contrast.pool=2", "contrast.max_views=5")])
def test_what_is_suggested_is_enough_when_it_is_set(
    folder: Path, values: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    tree = inspected(folder, *WHOLE, *values)
    contrast = tree["contrast"]
    best = contrast["tried"][contrast["enough"]]
    changes = [f"contrast.{key}={value}" for key, value in best["changes"].items()]
    assert changes
    assert f"take part with {' '.join(f'--set {change}' for change in changes)}" in capsys.readouterr().out
    again = inspected(folder, *WHOLE, *values, *changes)["contrast"]
    assert again["enough"] == 0
    assert again["tried"][0]["settings"] == best["settings"]
    assert again["tried"][0]["segments"] == best["segments"]
    assert min(share for share in again["tried"][0]["share"] if share is not None) >= 0.9
    assert "nine in ten segments of every class take part\n" in capsys.readouterr().out


def test_other_settings_are_tried_too(folder: Path) -> None:
    """Half of every class and nine in ten want the same here: by min_pixels, and by max_views as published."""
    tried = inspected(folder, *WHOLE)["contrast"]["tried"]
    assert [found["changes"] for found in tried[1:]] == [{"min_pixels": 6}, {"max_views": 5}]
    assert [found["segments"][BICYCLIST] for found in tried] == [0, 4, 4]
    assert [found["anchors"][BICYCLIST] for found in tried] == [0, 24, 20]
    few = inspected(folder, *WHOLE, "contrast.max_samples=3")["contrast"]["tried"]
    assert [found["changes"] for found in few[1:]] == [
        {"max_samples": 16, "min_pixels": 6},  # of six segments, two anchors each
        {"max_samples": 16, "max_views": 5},
    ]


def contrasted(settings: config.Config) -> dict[str, list[int]]:
    """What ``PixelContrastLoss.last`` says of the batches that training loads, summed up."""
    data = open_dataset(settings.data)
    contrast, K = settings.contrast, len(data.classes)
    h, w = (side // contrast.pool for side in inspection.map_of(settings))
    loss = fpc.PixelContrastLoss(
        max_samples=contrast.max_samples,
        max_views=contrast.max_views,
        min_pixels=contrast.min_pixels,
        ignore_index=IGNORE,
        num_classes=K,
    )
    train = TrainSet(data.train, augmentation(settings.data.augmentation), settings.seed)
    sums = {name: torch.zeros(K, dtype=torch.int64) for name in ("segments", "left_out", "anchors")}
    assert settings.schedule.epochs is not None
    for epoch in range(settings.schedule.epochs):
        for keys in EpochOrder(len(data.train), settings.schedule.batch, settings.seed, epoch):
            labels = torch.stack([train[key][1] for key in keys])
            for part in labels.chunk(settings.schedule.accumulate):
                loss(torch.randn(len(part), 2, h, w), part, torch.randn(len(part), K, h, w))
                for name, total in sums.items():
                    total += getattr(loss.last, f"class_{name}")
    return {name: total.tolist() for name, total in sums.items()}


@pytest.mark.parametrize(
    "values",
    [
        ("contrast.max_views=20",),
        ("contrast.max_views=30", "contrast.min_pixels=4", "schedule.accumulate=2"),
        ("contrast.max_views=9", "contrast.pool=2", "contrast.max_samples=200"),
    ],
)
def test_it_is_what_the_loss_says_of_the_training(tmp_path: Path, values: tuple[str, ...]) -> None:
    """Of random scenes, scaled, cropped and mirrored."""
    root, rng = tmp_path / "data", np.random.default_rng(0)
    for split, count in (("train", 9), ("val", 1)):
        for name in range(count):
            label = np.full((60 + 8 * name, 90), VOID, np.uint8)
            for _ in range(12):
                y, x, side = rng.integers(0, 60), rng.integers(0, 80), rng.integers(2, 40)
                label[y : y + side, x : x + side] = rng.integers(0, 11)
            write_pair(root, split, name, label)
    changes = ("data.augmentation.crop=[64, 96]", "schedule.batch=4", "schedule.epochs=2", *values)
    tree = inspected(root, *changes)
    settings = config.load("camvid", [f'data.root="{root}"', *changes])
    wanted = contrasted(settings)
    now = tree["contrast"]["tried"][0]
    assert {name: now[name] for name in wanted} == wanted
    assert sum(wanted["left_out"]) > 0


def test_crops_of_labels_are_those_of_the_training() -> None:
    values = ("data.augmentation.flip=0.5", "data.augmentation.aspect=[0.8, 1.25]", "data.augmentation.crop=80")
    settings = config.load("digits", [*TINY, *values])
    data = open_dataset(settings.data)
    train = TrainSet(data.train, augmentation(settings.data.augmentation), 5)
    crops = LabelCrops(settings.data.augmentation, 5)
    for key in ((0, 0), (1, 0), (2, 3)):
        assert torch.equal(crops(data.train[key[1]][1], key).long(), train[key][1])


@pytest.mark.parametrize("size", [(16, 24), (7, 5), (64, 96)])
def test_nearest_is_that_of_the_selection(size: tuple[int, int]) -> None:
    label = np.random.default_rng(0).integers(0, 7, (64, 96)).astype(np.uint8)
    everything = fpc.functional.select_anchors(
        torch.from_numpy(label)[None], torch.zeros(1, *size, dtype=torch.int64), max_samples=7000, max_views=7000,
        min_pixels=1,
    )  # fmt: skip
    count = int(everything.count)
    assert count == math.prod(size)
    places = everything.index[:count]
    assert nearest(label, *size).reshape(-1)[places].tolist() == everything.label[:count].tolist()


def test_classes_sizes_and_pixels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pair(folder, "test", 0, scene()[:32])
    splits = inspected(folder, *WHOLE)["splits"]
    assert splits["train"]["images_with"][:3] == [4, 1, 4]
    pixels = splits["train"]["pixels"]
    assert (pixels[POLE], pixels[BUILDING], pixels[BICYCLIST]) == (4 * 320, 4, 2 * 96)
    assert splits["train"]["ignored_pixels"] == 4 * 4 * 96
    assert splits["test"]["sizes"] == [[96, 32, 1]]
    out = capsys.readouterr().out
    assert "train: 4 images of 96 x 64 px\n" in out
    assert "val: 10 of 11 classes occur nowhere: building, pole, road," in out
    assert "no pixel of more than a tenth of the segments of building, which no setting of contrast lets in" in out
    assert "fewer than nine in ten segments take part of pole 0 %, bicyclist 0 %\n" in out


def test_faults_are_counted_and_the_rest_is_looked_at(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = write_pair(folder, "train", 0, np.full((64, 96), 12))
    Image.new("L", (50, 60)).save(folder / "labels" / "train" / "1.png")
    (folder / "labels" / "val" / "9.png").write_bytes(b"")
    tree = inspected(folder, *WHOLE, status=1)
    out = capsys.readouterr().out
    assert f"train: unknown ids: 1, which training refuses; the first is {label}: got the ids [12]" in out
    assert "train: sizes differ: 1, which training refuses; the first is" in out
    assert "val: no partner: 1, which training refuses; the first is the label" in out
    assert tree["contrast"]["crops"] == 2 * 2  # of the two that are left
    assert by_class(tree, tree["contrast"]["segments_on_map"]) == {"sky": 4, "pole": 4}


def test_a_batch_that_there_is_not(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = inspected(folder, *WHOLE, "schedule.batch=8")
    assert tree["contrast"] is None
    assert tree["splits"]["train"]["images_with"][POLE] == 4
    assert "no batch to look at: schedule.batch is 8, images to train on are 4\n" in capsys.readouterr().out


def test_workers_read_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = inspected(folder, *WHOLE)
    monkeypatch.setattr(inspection, "_WORTH_WORKERS", 0)
    assert inspected(folder, *WHOLE) == alone


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["contrast.pool=17"], "contrast.pool: got 17, want at most 16: the map of data.augmentation.crop has 16 x 24"),
        (["data.augmentation.crop=[64, 90]"], "deeplabv3plus_efficientnet_lite0 wants multiples of 16 px, as [64, 96]"),
        (["data.augmentation.scale=[0.001, 1.0]"], "data.augmentation.scale: got [0.001, 1.0], which leaves nothing"),
        (["data.name=nothing"], "data.name: got 'nothing', want one of"),
    ],
)
def test_settings_that_no_training_takes(
    folder: Path, values: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = [part for value in (*WHOLE, *values) for part in ("--set", value)]
    assert cli.main(["inspect", "--config", "camvid", "--data", str(folder), *changes]) == 2
    assert message in capsys.readouterr().err


def test_a_rule_that_lets_nothing_in_is_no_error(folder: Path) -> None:
    """Training refuses it before the data are opened; here is what to set instead."""
    tree = inspected(folder, *WHOLE, "contrast.max_views=400")
    assert sum(tree["contrast"]["tried"][0]["segments"]) == 0
    assert tree["contrast"]["enough"]


def test_every_data_set_by_the_config_that_it_has(tmp_path: Path) -> None:
    """No weights are wanted."""
    for name, layout in LAYOUTS.items():
        built = layout.build(tmp_path / name)
        settings = config.load("camvid", ["data.augmentation.crop=64", "schedule.batch=2", "contrast.max_views=3"])
        settings = replace(settings, data=built.data(augmentation=settings.data.augmentation))
        counter = itertools.count()
        tree = inspection.inspect(settings, open_dataset(settings.data, check=False), (16, 16), counter.__next__)
        assert next(counter) == 4
        assert tree["contrast"]["crops"] > 0
        assert min(tree["splits"]["train"]["images_with"]) == 2
    root = tmp_path / "cityscapes"
    arguments = ["--config", "cityscapes_hrnet_w48", "--data", str(root), "--set", "schedule.batch=2"]
    assert cli.main(["inspect", *arguments, "--set", "schedule.iterations=2"]) == 0


def test_a_folder_without_a_config_is_seen_as_train_would(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the settings that it has chosen for what is there."""
    file, values = tmp_path / "x.json", ["contrast.max_views=50", "schedule.epochs=2"]
    changes = [part for value in values for part in ("--set", value)]
    arguments = ["inspect", "--data", str(folder), *changes, "--json", str(file)]
    assert cli.main(arguments) == 0
    out, tree = capsys.readouterr().out, json.loads(file.read_text())
    values.append(f'data.root="{folder}"')
    settings = config.load("folder", [f"name={own_folder.name_of(str(folder))}", *values])
    chosen, told = own_folder.settle(settings, open_dataset(settings.data), values)
    assert tree["config"] == config.to_tree(chosen)
    assert told[0] in out
    assert tree["classes"] == [f"class {k}" for k in (0, 1, 2, 10, 11)]
    wanted, now = contrasted(chosen), tree["contrast"]["tried"][0]
    assert {name: now[name] for name in wanted} == wanted
    (folder / "labels" / "train" / "3.png").write_bytes(b"none")
    assert cli.main([*arguments, "--overwrite"]) == 1
    assert "train: cannot be read: 1, which training refuses; the first is" in capsys.readouterr().out


def test_files_are_written_as_by_other_verbs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "inspect",
        "--config",
        "camvid",
        "--data",
        str(folder),
        *(part for value in WHOLE for part in ("--set", value)),
    ]
    figure = folder.parent / "figure.png"
    assert cli.main([*arguments, "--figure", str(figure)]) == 0
    with Image.open(figure) as picture:
        assert picture.format == "PNG"
    assert cli.main([*arguments, "--figure", str(figure)]) == 2
    assert "is there; want another name, or --overwrite" in capsys.readouterr().err
    label = folder / "labels" / "train" / "0.png"
    assert cli.main([*arguments, "--json", str(label), "--overwrite"]) == 2
    assert "would replace the input" in capsys.readouterr().err
    assert cli.main([*arguments, "--json", str(figure), "--figure", str(figure), "--overwrite"]) == 2


def test_a_picture_that_can_not_be_drawn_is_a_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "inspected", lambda _: 1 / 0)
    figure = folder.parent / "figure.png"
    arguments = [
        "inspect",
        "--config",
        "camvid",
        "--data",
        str(folder),
        *(part for value in WHOLE for part in ("--set", value)),
    ]
    assert cli.main([*arguments, "--figure", str(figure)]) == 1
    said = capsys.readouterr()
    assert f"fastpixcon: {figure}: not drawn: ZeroDivisionError" in said.err
    assert "settings, tried by the selection of the loss" in said.out
    assert not figure.exists()


@pytest.mark.parametrize("classes", [1, 171])
def test_a_picture_of_any_number_of_classes(classes: int) -> None:
    tried = {"settings": Rule(9, 9, None, 1)._asdict(), "share": [None] * classes}
    for contrast in (None, {"tried": [tried], "enough": None, "map": [2, 3]}):
        splits = {"train": {"pixels": [0] * classes, "images": 0}}
        tree = {"classes": ["a"] * classes, "splits": splits, "contrast": contrast, "config": {"name": "x"}}
        drawn = figures.inspected(tree)
        assert len(drawn.axes) == (2 if contrast else 1)
        plt.close(drawn)


def test_embedded_scenes_need_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree = inspected(None, *TINY)
    assert tree["splits"]["train"]["images"] == 16
    assert (tree["contrast"]["calls"], tree["contrast"]["crops"]) == (8, 32)


def test_changes_are_what_has_to_be_set() -> None:
    now = Rule(1024, 100, None, 2)
    assert Rule(1024, 100, 5, 2).changes(now) == {"min_pixels": 5}
    assert Rule(2048, 4, None, 1).changes(now) == {"max_samples": 2048, "max_views": 4, "pool": 1}
    assert (now.least, Rule(1, 100, 5, 1).least) == (101, 5)
    assert segments._samples(1024, 1000) == 1024
    assert segments._samples(1024, 1025) == 2048
