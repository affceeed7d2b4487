"""A folder of a user's own: where its pictures and labels are found, and which belong together."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from own_folders import build, data_of, describe, label_of, opened, write_ids, write_pair

from fastpixcon.training import TrainingError
from fastpixcon.training.data import Split, open_dataset
from fastpixcon.training.data.folder_files import FolderFiles

# Image and label by split and number; what tells that they are read: no config, no description.
LAYOUTS = {
    "images and labels": ("images/{split}/{i}.jpg", "labels/{split}/{i}.png"),
    "masks": ("images/{split}/{i}.jpg", "masks/{split}/{i}.png"),
    "annotations": ("images/{split}/{i}.png", "annotations/{split}/{i}.png"),
    "any case": ("Images/{split}/{i}.JPG", "Labels/{split}/{i}.PNG"),
    "other suffixes": ("images/{split}/{i}.jpeg", "labels/{split}/{i}.tif"),
    "tiff": ("images/{split}/{i}.TIF", "labels/{split}/{i}.Tiff"),
    "folders in folders": ("images/{split}/city{i}/a/x.jpg", "labels/{split}/city{i}/a/x.png"),
    "a split each": ("{split}/images/{i}.jpg", "{split}/labels/{i}.png"),
    "a split each, masks": ("{split}/Image/{i}.jpg", "{split}/Mask/{i}.png"),
    "beside": ("{split}/{i}.png", "{split}_labels/{i}.png"),
    "beside, SegNet": ("{split}/{i}.png", "{split}annot/{i}.png"),
    "beside, CamVid as passed on": ("{split}/{i}.png", "{split}_labels/{i}_L.png"),
    "beside, both named": ("{split}_images/{i}.jpg", "{split}_masks/{i}.png"),
    "beside, split last": ("images_{split}/{i}.jpg", "labels_{split}/{i}.png"),
    "endings of both": ("images/{split}/{i}_sat.jpg", "labels/{split}/{i}_seg.png"),
    "endings in folders": ("images/{split}/ulm/{i}_leftImg8bit.png", "gt/{split}/ulm/{i}_gtFine_labelIds.png"),
    "one folder a split": ("{split}/{i}_sat.jpg", "{split}/{i}_mask.png"),
    "one folder a split, by suffix": ("{split}/{i}.jpg", "{split}/{i}.png"),
    "training and validation": ("images/{split}ing/{i}.jpg", "labels/{split}ing/{i}.png"),
    "with a year": ("images/{split}2017/{i}.jpg", "annotations/{split}2017/{i}.png"),
}


def path(root: Path, pattern: str, split: str, i: int) -> Path:
    name = {"training": "training", "valing": "validation"}
    made = pattern.format(split=split, i=f"{split}_{i:03d}")
    for short, long in name.items():
        made = made.replace(f"/{short}/", f"/{long}/")
    return root / made


def names(split: Split) -> list[str]:
    assert isinstance(split, FolderFiles)
    return [Path(image).name for image in split.images]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_common_layouts_are_found(layout: str, tmp_path: Path) -> None:
    images, labels = LAYOUTS[layout]
    raw = {}
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for i in range(count):
            seed = len(raw)
            raw[split, i] = write_pair(path(tmp_path, images, split, i), path(tmp_path, labels, split, i), seed)
    data = opened(tmp_path)
    assert data.test is not None
    assert [len(split) for split in (data.train, data.val, data.test)] == [3, 2, 1]
    for split, files in (("train", data.train), ("val", data.val), ("test", data.test)):
        for i in range(len(files)):
            assert np.array_equal(files[i][1].numpy(), raw[split, i])
    assert not any("not read" in note for note in data.notes)


def two_folders(root: Path, count: int = 10) -> None:
    for i in range(count):
        write_pair(root / "photos" / f"{i}.jpg", root / "masks" / f"{i}.png", i)


def test_a_share_is_drawn_to_validate(tmp_path: Path) -> None:
    two_folders(tmp_path)
    data = opened(tmp_path)
    assert (len(data.train), len(data.val)) == (8, 2)
    assert sorted(names(data.train) + names(data.val)) == sorted(f"{i}.jpg" for i in range(10))
    assert any("2 of 10 images, drawn by their names with seed 0" in note for note in data.notes)
    assert names(opened(tmp_path).val) == names(data.val)
    others = [names(opened(tmp_path, val_seed=seed).val) for seed in range(1, 5)]
    assert any(other != names(data.val) for other in others)
    assert len(opened(tmp_path, val_share=0.5).val) == 5
    assert len(opened(tmp_path, val_share=0.01).val) == 1
    # One more picture moves none of the others between the two by more than the size asks for.
    write_pair(tmp_path / "photos" / "more.jpg", tmp_path / "masks" / "more.png", 1)
    assert len(set(names(data.val)) - set(names(opened(tmp_path).val))) <= 1
    describe(tmp_path, "val_share = 0.3\nval_seed = 7\n")
    assert len(opened(tmp_path).val) == 3
    assert opened(tmp_path).described == opened(tmp_path, val_seed=7).described


def test_lists_of_pairs_and_of_names(tmp_path: Path) -> None:
    two_folders(tmp_path, 6)
    (tmp_path / "train.txt").write_text(
        "photos/0.jpg masks/0.png\nphotos/3.jpg masks/3.png\n\nphotos/4.jpg masks/4.png"
    )
    (tmp_path / "val.txt").write_text("photos/1.jpg masks/1.png\n")
    data = opened(tmp_path)
    assert (names(data.train), names(data.val)) == (["0.jpg", "3.jpg", "4.jpg"], ["1.jpg"])
    assert any(note.startswith("not read: 4 pictures, 2 in masks, 2 in photos") for note in data.notes)
    for text in ("0\n3.jpg\n4\n", "photos/0.jpg\n3\n4\n", "image\n0\n3\n4\n"):
        (tmp_path / "train.txt").write_text(text)
        (tmp_path / "val.txt").write_text("1\n")
        data = opened(tmp_path)
        assert (names(data.train), names(data.val)) == (["0.jpg", "3.jpg", "4.jpg"], ["1.jpg"])
    (tmp_path / "mine.csv").write_text("image,label\nphotos/5.jpg, masks/5.png\n")
    (tmp_path / "train.txt").unlink()
    describe(tmp_path, 'train = "mine.csv"\nval = [["photos/1.jpg", "masks/1.png"]]\ntest = { list = "val.txt" }\n'
                       'images = "photos"\nlabels = "masks"')  # fmt: skip
    with pytest.raises(TrainingError, match=r"1 images are in val and in test, the first is .*1.jpg"):
        opened(tmp_path)
    (tmp_path / "val.txt").write_text("2\n")
    data = opened(tmp_path)
    assert data.test is not None
    assert (names(data.train), names(data.val), names(data.test)) == (["5.jpg"], ["1.jpg"], ["2.jpg"])


def test_pascal_voc(tmp_path: Path) -> None:
    """More images than labels, lists of names, labels with a palette."""
    for i in range(5):
        write_pair(tmp_path / "JPEGImages" / f"2007_{i}.jpg", tmp_path / "SegmentationClass" / f"2007_{i}.png", i)
    write_pair(tmp_path / "JPEGImages" / "2008.jpg", tmp_path / "SegmentationObject" / "2008.png", 9)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, numbers in (("train", "012"), ("val", "34"), ("trainval", "01234")):
        (lists / f"{name}.txt").write_text("".join(f"2007_{i}\n" for i in numbers))
    data = opened(tmp_path)
    assert (len(data.train), names(data.val)) == (3, ["2007_3.jpg", "2007_4.jpg"])
    assert data.notes[0].endswith("train by ImageSets/Segmentation/train.txt, val by ImageSets/Segmentation/val.txt")


def test_names_with_spaces_in_lists(tmp_path: Path) -> None:
    for i in range(2):
        write_pair(tmp_path / "my photos" / f"at the sea {i}.jpg", tmp_path / "l" / f"at the sea {i}.png", i)
    (tmp_path / "train.txt").write_text("my photos/at the sea 0.jpg\tl/at the sea 0.png\n")
    (tmp_path / "val.txt").write_text("my photos/at the sea 1.jpg,l/at the sea 1.png\n")
    assert names(opened(tmp_path).val) == ["at the sea 1.jpg"]
    (tmp_path / "val.txt").write_text("my photos/at the sea 1.jpg l/at the sea 1.png\n")
    with pytest.raises(TrainingError, match=r"val.txt: line 1: want 'image label'"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("photos/0.jpg masks/0.png\nphotos/9.jpg masks/9.png\n", "line 2: photos/9.jpg and masks/9.png: no such file"),
        ("0\n9\n", "train.txt: line 2: 9: no such image in"),
        ("0\n0\n", "train.txt: got 0 2 times, want each image once"),
        ("", "train.txt: empty, want a list of images and labels"),
        ("a b c\n", "train.txt: line 1: want 'image label'"),
    ],
)  # fmt: skip
def test_lists_that_are_wrong(text: str, wrong: str, tmp_path: Path) -> None:
    two_folders(tmp_path, 4)
    (tmp_path / "train.txt").write_text(text)
    (tmp_path / "val.txt").write_text("1\n")
    with pytest.raises(TrainingError, match=re.escape(wrong)):
        opened(tmp_path)


def test_described_folders(tmp_path: Path) -> None:
    for i in range(3):
        write_pair(tmp_path / "a" / f"{i}.jpg", tmp_path / "b" / f"{i}.png", i)
        write_pair(tmp_path / "c" / "image" / f"{i}x.jpg", tmp_path / "c" / "label" / f"{i}x.png", i)
    describe(tmp_path, 'train = { images = "a", labels = "b" }\nval = "c"\n')
    data = opened(tmp_path)
    assert (names(data.train)[0], names(data.val)[0]) == ("0.jpg", "0x.jpg")
    assert len(opened(tmp_path, train={"folder": "c"}, val={"images": "a", "labels": "b"}).val) == 3
    describe(tmp_path, 'images = "a"\nlabels = "b"\nval_share = 0.4\n')
    assert (len(opened(tmp_path).train), len(opened(tmp_path).val)) == (2, 1)


def test_a_label_ending_that_is_named_leaves_others_alone(tmp_path: Path) -> None:
    for i in range(4):
        write_pair(tmp_path / "images" / f"{i}.jpg", tmp_path / "labels" / f"{i}_ids.png", i)
        write_ids(tmp_path / "labels" / f"{i}_instances.png", label_of(9))
    with pytest.raises(TrainingError, match=r"4 labels without a picture: .*0_instances.png"):
        opened(tmp_path)
    data = opened(tmp_path, label_ending="_ids")
    assert len(data.train) + len(data.val) == 4
    assert "not read: 4 pictures, 4 in labels" in data.notes


@pytest.mark.parametrize(
    ("files", "wrong"),
    [
        ([], "it has no folders and no pictures. Looked for: images/ and labels/"),
        (["pictures/a.jpg", "things/a.png"], "it has pictures/, things/ and no pictures. Looked for"),
        (["images/a.jpg", "labels/a.png", "masks/a.png"], "in 2 ways: train in images and labels; or train in images"),
        (["images/train/a.jpg", "labels/train/a.png", "train/a.jpg", "train_labels/a.png"], "in 2 ways"),
        (["a.png", "b.png"], "has pictures and no folder of labels; want labels that end alike"),
        (["images/train/a.jpg", "images/training/a.jpg", "labels/train/a.png"], "got the folders train and training"),
        (["images/a.jpg", "images/a.png", "labels/a.png"], "got a.jpg and a.png, want one file of the name a"),
        (["leftImg8bit/train/x/a.png"], "it looks like Cityscapes: --config cityscapes_hrnet_w48"),
        (["train/a.jpg", "train_labels/a.png", "val/b.jpg"], "has val/, but no pictures and labels to validate"),
        (["train_images/a.jpg", "train_masks/a.png", "val_masks/b.png"], "has val_masks/, but no pictures and labels"),
        (["train/images/a.jpg", "train/labels/a.png", "val/images/b.jpg", "val/masks/b.png"], "has val/, but no pic"),
        (["images/train/a.jpg", "images/val/b.jpg", "labels/train/a.png"], "labels/val: no such folder, want labels"),
        (["images/train/a.jpg", "labels/train/a.png", "labels/val/b.png"], "images/val: no such folder, want pictures"),
        (["images/a.jpg", "labels/a.png"], "has 1 picture with a label, want at least 2"),
    ],
)  # fmt: skip
def test_folders_that_are_not_clear(files: list[str], wrong: str, tmp_path: Path) -> None:
    for i, file in enumerate(files):
        write_ids(tmp_path / file, label_of(i))
    with pytest.raises(TrainingError, match=re.escape(wrong)):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("trian = 1", "trian: unknown key"),
        ('train = { image = "a" }', "train.image: unknown key"),
        ("train = 3", "train: got 3, want a folder, a list, or a table of images and labels"),
        ('val = "labels/val"', "val without train, want train"),
        ('train = "nowhere"', "nowhere: no such folder, but train names it"),
        ('train = "nowhere.txt"', "nowhere.txt: cannot be read"),
        ('train = { images = "images" }', "train: want images and labels, a folder, a list or pairs"),
        ('train = { folder = "images", list = "a.txt" }', "train: got folder and list, want one of them"),
        ("train = []", "train: got no pairs, want some"),
        ('images = "images"', "images alone, want images and labels"),
        ("val_share = 1.5", "val_share: got 1.5, want less than 1"),
        ("val_share = 0.5", "val_share: got 0.5, but .* has images to validate"),
        ("val_seed = 5", "val_seed: got 5, but .* has images to validate, none are drawn"),
        ('val = "a.txt"\nval_share = 0.5', "got val and val_share, want one of them"),
        ("classes = [{ nme = 'a' }]", "classes.entries.0.name: missing"),
        ("ignore = [[1, 2]]", r"ignore.0: got \[1, 2\], want an id, a colour \[r, g, b\] or the name of a class"),
        ("train = ", "not TOML"),
    ],
)
def test_descriptions_that_are_wrong(text: str, wrong: str, tmp_path: Path) -> None:
    build(tmp_path)
    describe(tmp_path, text)
    with pytest.raises(TrainingError, match=wrong):
        opened(tmp_path)


def test_the_config_goes_before_the_description(tmp_path: Path) -> None:
    two_folders(tmp_path, 10)
    describe(tmp_path, 'val_share = 0.3\nclasses = ["a", "b", "c", "d"]\n')
    data = opened(tmp_path, val_share=0.5)
    assert (len(data.val), list(data.classes)) == (5, ["a", "b", "c", "d"])
    data = opened(tmp_path, classes={"entries": [{"name": n} for n in "wxyz"]})
    assert list(data.classes) == ["w", "x", "y", "z"]
    assert "classes are those of data.folder, not those of dataset.toml" in data.notes
    with pytest.raises(TrainingError, match=r"data.root: got '', want CamVid's folder, or one of your own pictures"):
        open_dataset(replace(data_of(tmp_path), root=""))


def test_what_only_looks_like_a_layout_is_none(tmp_path: Path) -> None:
    """A picture beside folders, pictures of two suffixes, a folder of annotations that are no pictures."""
    for i in range(4):
        suffix = "jpg" if i % 2 else "png"
        write_pair(tmp_path / "train" / f"{i}.{suffix}", tmp_path / "train_labels" / f"{i}.png", i)
    write_ids(tmp_path / "preview.png", label_of(0))
    assert len(opened(tmp_path).train) == 3
    (tmp_path / "train").rename(tmp_path / "images")
    (tmp_path / "train_labels").rename(tmp_path / "labels")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances.json").touch()
    assert len(opened(tmp_path).train) == 3


def test_accents_of_any_system(tmp_path: Path) -> None:
    """A Mac writes them apart."""
    for i in range(2):
        write_pair(tmp_path / "images" / f"caf\u00e9{i}.jpg", tmp_path / "labels" / f"cafe\u0301{i}.png", i)
    assert len(opened(tmp_path).train) == 1


def test_a_link_is_followed_and_a_circle_ends(tmp_path: Path) -> None:
    two_folders(tmp_path / "elsewhere", 4)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").symlink_to(tmp_path / "elsewhere" / "photos")
    (tmp_path / "data" / "labels").symlink_to(tmp_path / "elsewhere" / "masks")
    (tmp_path / "elsewhere" / "photos" / "again").symlink_to(tmp_path / "elsewhere" / "photos")
    data = opened(tmp_path / "data")
    assert len(data.train) + len(data.val) == 4


def test_a_description_of_another_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"data.folder: got a description, but data.name is 'camvid'"):
        open_dataset(replace(data_of(tmp_path, val_share=0.5), name="camvid"))
