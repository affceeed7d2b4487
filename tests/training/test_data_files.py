"""Every data set in every layout: what it gives, and what it says of files that are wrong."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_layouts import COCO_IDS, COCO_REMOVED, LAYOUTS, SIZE, SPLIT, Built, every_id, write_image, write_label
from PIL import Image

from fastpixcon.cli.evaluate import _with_split
from fastpixcon.training import TrainingError
from fastpixcon.training.config import Augmentation
from fastpixcon.training.data import DATASETS, IGNORE, dataset_ids, files, open_dataset
from fastpixcon.training.data.base import distinct_colours
from fastpixcon.training.data.loading import EpochOrder, TrainSet, augmentation, train_loader, val_loader

CLASSES = {
    "camvid": 11,
    "ccp": 59,
    "cityscapes": 19,
    "coco_stuff_10k": 171,
    "coco_stuff_164k": 171,
    "pascal_context_59": 59,
    "pascal_context_60": 60,
}


@pytest.fixture(params=LAYOUTS)
def built(request: pytest.FixtureRequest, tmp_path: Path) -> Built:
    return LAYOUTS[request.param].build(tmp_path)


def build(name: str, root: Path, count: int = SPLIT) -> Built:
    return LAYOUTS[name].build(root, count)


def refused(built: Built, *parts: str) -> None:
    """Opening raises an error that has all of ``parts``, in this order."""
    with pytest.raises(TrainingError, match=".*".join(re.escape(part) for part in parts)):
        open_dataset(built.data())


def test_every_data_set_has_a_layout_here() -> None:
    assert {layout.dataset for layout in LAYOUTS.values()} | {"digits", "folder"} == set(DATASETS)


def test_every_raw_id_becomes_its_train_id(built: Built) -> None:
    data = open_dataset(built.data())
    assert len(data.train) == len(data.val) == SPLIT
    wanted = every_id(list(built.layout.train_ids.values()))
    for split in (data.train, data.val):
        image, label = split[SPLIT - 1]
        assert image.shape == (3, SIZE[1], SIZE[0])
        assert image.dtype == label.dtype == torch.uint8
        assert np.array_equal(label.numpy(), wanted)
    pixels = np.array(Image.open(built.pairs[SPLIT - 1][0]))
    assert np.array_equal(data.train[SPLIT - 1][0].permute(1, 2, 0).numpy(), pixels)


def test_the_ids_of_a_data_set_are_those_of_its_labels(built: Built) -> None:
    """predict --ids dataset takes back what reading a label does; mmsegmentation's conversion has ids of its own."""
    name, ids = built.layout.dataset, built.layout.train_ids
    if name == "coco_stuff_10k" and max(ids) < 182:
        return
    back = dataset_ids(built.data())
    assert [ids[raw] for raw in back] == list(range(CLASSES[name]))


def test_eval_takes_the_test_split_where_there_is_one(tmp_path: Path) -> None:
    built = build("camvid", tmp_path)
    with pytest.raises(TrainingError, match="camvid has none: there are no test images in its folder"):
        _with_split(open_dataset(built.data()), "test", "camvid")
    write_image(tmp_path / "images" / "test" / "x.jpg", 9)
    write_label(tmp_path / "labels" / "test" / "x.png", every_id(list(range(11))))
    data = open_dataset(built.data())
    assert len(_with_split(data, "test", "camvid").val) == 1
    assert _with_split(data, "train", "camvid").val is data.train
    built = build("cityscapes", tmp_path / "cityscapes")
    with pytest.raises(TrainingError, match="labels of its test images are not public; predict --ids dataset"):
        _with_split(open_dataset(built.data()), "test", "cityscapes")


def test_classes_have_names_and_colours_of_their_own(built: Built) -> None:
    data = open_dataset(built.data())
    count = CLASSES[built.layout.dataset]
    assert len(data.classes) == len(set(data.classes)) == len(data.palette) == len(set(data.palette)) == count
    counted = {train_id for train_id in built.layout.train_ids.values() if train_id != IGNORE}
    assert counted == set(range(count))


def test_a_label_of_another_size(built: Built) -> None:
    label = built.pairs[1][1]
    write_label(label, every_id([0])[:-1])
    refused(built, str(label), "got 24x15 px, want 24x16 as its image")


def test_a_label_of_three_channels(built: Built) -> None:
    label = built.pairs[0][1]
    if label.suffix == ".mat":
        write_label(label, np.stack([every_id([0])] * 3, axis=-1))
        refused(built, str(label), "'S': (16, 24, 3)", "want a MATLAB file whose matrix S holds")
    else:
        Image.new("RGB", SIZE).save(label)
        refused(built, str(label), "got a RGB picture, want one channel of class ids")


def test_an_id_that_there_is_not(built: Built) -> None:
    label, unknown = built.pairs[-1][1], built.layout.unknown
    write_label(label, every_id([unknown, min(built.layout.train_ids)]))
    refused(built, str(label), f"got the ids [{unknown}], want {min(built.layout.train_ids)}")


def test_a_label_is_missing(built: Built) -> None:
    image, label = built.pairs[1]
    label.unlink()
    if built.layout.lists:
        refused(built, f"{label}: no such file, but", "train.txt names", image.stem)
    else:
        refused(built, "2 images and 1 labels; 1 have no partner, the first is the image", str(image), "without label")


def test_an_image_is_missing(built: Built) -> None:
    image, label = built.pairs[-1]
    image.unlink()
    if built.layout.lists:
        refused(built, f"{image}: no such file, but", "names", image.stem)
    else:
        refused(built, "1 images and 2 labels; 1 have no partner, the first is the label", str(label), "without image")


def test_a_folder_is_missing(built: Built) -> None:
    folder = built.pairs[-1][1].parent
    shutil.rmtree(folder)
    if built.layout.dataset == "cityscapes":
        refused(built, f"{folder.parent}: has no folders of cities")
        folder.parent.rmdir()
        folder = folder.parent
    refused(built, str(folder), "no such f")  # folder, or the first file that a list names


def test_pictures_that_are_none(built: Built) -> None:
    image, label = built.pairs[0]
    pixels, raw = image.read_bytes(), label.read_bytes()
    image.write_bytes(b"no picture")
    refused(built, f"{image}: cannot be read: no picture")
    image.write_bytes(pixels)
    label.write_bytes(raw[:20])
    refused(built, str(label))


@pytest.mark.parametrize("name", CLASSES)
def test_without_a_folder(name: str) -> None:
    for root in ("", "/no/such/folder"):
        data = replace(Built(LAYOUTS[name], Path(), []).data(), root=root)
        with pytest.raises(TrainingError, match=r"data\.root: got .*want .*'s folder \(--data DIR\)"):
            open_dataset(data)


def test_lists_name_each_image_once(tmp_path: Path) -> None:
    built = build("pascal_context_59", tmp_path)
    path = tmp_path / "ImageSets/SegmentationContext/val.txt"
    path.write_text("2010_0\n\n2010_0\n")
    refused(built, f"{path}: got 2010_0 2 times")
    path.write_text("\n")
    refused(built, f"{path}: empty, want a list of names")
    path.unlink()
    refused(built, f"{path}: cannot be read: No such file")


# What an id that the sample missed does


def broken_behind_the_sample(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Built, Path]:
    monkeypatch.setattr(files, "_ALL_IDS", 3)
    monkeypatch.setattr(files, "_SAMPLED_IDS", 2)
    built = build("coco_stuff_164k", root, 4)
    label = built.pairs[2][1]
    write_label(label, every_id([11]))
    return built, label


def test_a_sample_of_a_large_split_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, _ = broken_behind_the_sample(tmp_path, monkeypatch)
    open_dataset(built.data())
    last = built.pairs[3][1]
    write_label(last, every_id([11]))
    refused(built, f"{last}: got the ids [11], want 0 to 10, 12 to 24,")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unknown_id_never_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    built, label = broken_behind_the_sample(tmp_path, monkeypatch)
    data = open_dataset(built.data())
    changes = augmentation(Augmentation(scale=(1.0, 1.0), crop=(16, 24), flip=0.0, colour=0.0))
    samples = TrainSet(data.train, changes, seed=0)
    message = f"^{re.escape(str(label))}: got the ids \\[11\\], want 0 to 10, .*and 255$"
    with pytest.raises(TrainingError, match=message):
        list(train_loader(samples, EpochOrder(4, 2, seed=0, epoch=0), workers))
    with pytest.raises(TrainingError, match=message):
        list(val_loader(data.train, 2, workers))


@pytest.mark.parametrize("change", ["image", "label", "mode"])
def test_files_that_change_after_the_check(tmp_path: Path, change: str) -> None:
    built = build("camvid", tmp_path)
    data = open_dataset(built.data())
    image, label = built.pairs[0]
    if change == "image":
        image.write_bytes(b"no picture")
    elif change == "label":
        write_label(label, every_id([0])[1:])
    else:
        Image.new("RGB", SIZE).save(label)
    with pytest.raises(TrainingError, match=re.escape(str(image if change == "image" else label))):
        data.train[0]


# Single data sets


def test_coco_ids(tmp_path: Path) -> None:
    from fastpixcon.training.data import coco_stuff

    assert set(coco_stuff._REMOVED) == COCO_REMOVED
    assert coco_stuff._COCO_IDS == COCO_IDS
    assert len(coco_stuff._COCO_IDS) == len(coco_stuff._CLASSES) == 171
    names = dict(zip(coco_stuff._COCO_IDS, coco_stuff._CLASSES, strict=True))
    # From labels.txt: the first and last of things and stuff, and the neighbours of what was removed.
    for coco_id, name in {
        1: "person", 11: "fire hydrant", 13: "stop sign", 25: "giraffe", 27: "backpack", 28: "umbrella", 31: "handbag",
        44: "bottle", 46: "wine glass", 65: "bed", 67: "dining table", 70: "toilet", 72: "tv", 82: "refrigerator",
        84: "book", 90: "toothbrush", 92: "banner", 110: "desk-stuff", 112: "door-stuff", 133: "mirror-stuff",
        149: "road", 169: "tree", 181: "window-other", 182: "wood",
    }.items():  # fmt: skip
        assert names[coco_id] == name
    for raw in sorted(COCO_REMOVED):  # one less in the PNGs of 164k
        built = build("coco_stuff_164k", tmp_path / str(raw), 1)
        write_label(built.pairs[0][1], every_id([raw - 1]))
        refused(built, f"got the ids [{raw - 1}]")


def test_coco_164k_leaves_converted_labels_alone(tmp_path: Path) -> None:
    built = build("coco_stuff_164k", tmp_path)
    for _, label in built.pairs:
        write_label(label.with_name(f"{label.stem}_labelTrainIds.png"), every_id([11]))
    assert len(open_dataset(built.data()).train) == SPLIT


@pytest.mark.parametrize("raw", [every_id([0]) + 0.5, every_id([0]).astype(np.int16) + 300])
def test_coco_10k_matrices_that_are_no_ids(tmp_path: Path, raw: np.ndarray) -> None:
    built = build("coco_stuff_10k", tmp_path)
    write_label(built.pairs[0][1], raw)
    refused(built, str(built.pairs[0][1]), f"got {raw.dtype} [16, 24] from", "want a MATLAB file")


def test_coco_10k_matrices_of_any_type(tmp_path: Path) -> None:
    built = build("coco_stuff_10k", tmp_path)
    write_label(built.pairs[0][1], every_id(COCO_IDS).astype(np.float64))
    _, label = open_dataset(built.data()).train[0]
    assert set(label.unique().tolist()) == set(range(171))


def test_cityscapes_names_its_classes_in_the_order_of_train_ids(tmp_path: Path) -> None:
    data = open_dataset(build("cityscapes", tmp_path).data())
    assert list(data.classes[:3]) == ["road", "sidewalk", "building"]
    assert data.classes[-1] == "bicycle"
    assert data.palette[13] == (0, 0, 142)  # car


def test_cityscapes_with_train_ids_only(tmp_path: Path) -> None:
    built = build("cityscapes", tmp_path)
    label = built.pairs[0][1]
    for _, path in built.pairs[:SPLIT]:
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    refused(built, f"{label.parent}: has no files NAME_gtFine_labelIds.png")


def test_pascal_context_in_its_devkit(tmp_path: Path) -> None:
    inner = build("pascal_context_60", tmp_path / "VOC2010")
    data = open_dataset(Built(inner.layout, tmp_path, inner.pairs).data())
    assert (data.classes[0], data.classes[59]) == ("background", "wood")
    assert data.palette[0] == (0, 0, 0)
    without = open_dataset(replace(inner.data(), name="pascal_context_59"))
    assert list(without.classes) == list(data.classes[1:])
    assert list(without.palette) == list(data.palette[1:])


@pytest.mark.parametrize(
    ("name", "image", "label"),
    [
        ("camvid", "images/test/x.jpg", "labels/test/x.png"),
        ("camvid_segnet", "test/x.png", "testannot/x.png"),
        ("ccp", "images/test/x.jpg", "labels/test/x.png"),
    ],
)
def test_a_test_split_where_there_is_one(tmp_path: Path, name: str, image: str, label: str) -> None:
    built = build(name, tmp_path)
    assert open_dataset(built.data()).test is None
    last = max(built.layout.train_ids)
    write_image(tmp_path / image, 0)
    write_label(tmp_path / label, every_id([last]))
    test = open_dataset(built.data()).test
    assert test is not None
    assert test[0][1].unique().tolist() == [built.layout.train_ids[last]]
    write_label(tmp_path / label, every_id([last + 1]))
    refused(built, str(tmp_path / label), f"got the ids [{last + 1}]")


def test_grey_photographs_and_palettes(tmp_path: Path) -> None:
    built = build("pascal_context_59", tmp_path)
    image, label = built.pairs[0]
    Image.new("L", SIZE, 7).save(image)
    coloured = Image.new("P", SIZE, 3)
    coloured.putpalette([200, 100, 50] * 256)
    coloured.save(label)
    pixels, ids = open_dataset(built.data()).train[0]
    assert pixels.unique().tolist() == [7]
    assert ids.unique().tolist() == [2]


def test_distinct_colours() -> None:
    assert len(set(distinct_colours(0, 256))) == 256
    assert distinct_colours(0, 4) == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    assert distinct_colours(15, 1) == [(192, 128, 128)]  # VOC's person
