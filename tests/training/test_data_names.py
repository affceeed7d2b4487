"""No pair is left out without a word: suffixes in any case, and pictures that a data set does not take."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_layouts import LAYOUTS, SIZE, SPLIT, Built, every_id, write_image, write_label
from PIL import Image

from fastpixcon.training import TrainingError
from fastpixcon.training.data import open_dataset

WITH_LISTS = [name for name, layout in LAYOUTS.items() if layout.lists]
WITH_FOLDERS = [name for name, layout in LAYOUTS.items() if not layout.lists]


def refused(built: Built, *parts: str) -> None:
    with pytest.raises(TrainingError, match=".*".join(re.escape(str(part)) for part in parts)):
        open_dataset(built.data())


def other_case(path: Path) -> Path:
    return path.with_suffix(path.suffix.upper())


@pytest.mark.parametrize("name", LAYOUTS)
def test_suffixes_count_in_any_case(tmp_path: Path, name: str) -> None:
    built = LAYOUTS[name].build(tmp_path)
    image, label = built.pairs[0]
    image.rename(other_case(image))
    label.rename(other_case(label))
    data = open_dataset(built.data())
    assert len(data.train) == len(data.val) == SPLIT
    assert np.array_equal(data.train[0][0].permute(1, 2, 0).numpy(), np.array(Image.open(other_case(image))))


@pytest.mark.parametrize("name", [name for name in LAYOUTS if LAYOUTS[name].train(0)[0].endswith(".jpg")])
@pytest.mark.parametrize("suffix", [".jpeg", ".JPEG", ".Jpg"])
def test_jpeg_has_two_suffixes(tmp_path: Path, name: str, suffix: str) -> None:
    built = LAYOUTS[name].build(tmp_path)
    for image, _ in built.pairs[::2]:
        image.rename(image.with_suffix(suffix))
    data = open_dataset(built.data())
    assert len(data.train) == len(data.val) == SPLIT


@pytest.mark.parametrize("name", LAYOUTS)
def test_two_files_of_one_name(tmp_path: Path, name: str) -> None:
    built = LAYOUTS[name].build(tmp_path)
    for path in built.pairs[1]:
        twin = other_case(path)
        shutil.copy(path, twin)
        refused(built, f"{path.parent}: got", " and ", "want one file of the name")
        twin.unlink()
    open_dataset(built.data())


@pytest.mark.parametrize("name", LAYOUTS)
def test_two_pictures_of_one_name_and_other_suffixes(tmp_path: Path, name: str) -> None:
    built = LAYOUTS[name].build(tmp_path)
    image = built.pairs[0][0]
    write_image(image.with_suffix(".bmp"), 0)
    refused(built, str(image.parent), image.with_suffix(".bmp").name)


@pytest.mark.parametrize("name", WITH_FOLDERS)
@pytest.mark.parametrize("stranger", ["x.bmp", "x.TIFF", "x.webp", "x.Png", "deeper/x.jpg"])
@pytest.mark.parametrize("which", [0, 1], ids=["image", "label"])
def test_pictures_that_are_not_taken(tmp_path: Path, name: str, stranger: str, which: int) -> None:
    built = LAYOUTS[name].build(tmp_path)
    path = built.pairs[0][which].parent / stranger
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    with pytest.raises(TrainingError) as error:
        open_dataset(built.data())
    if "have no partner" in str(error.value):  # the layout does take it
        assert stranger == "x.Png"
    else:
        assert str(error.value).startswith(f"{built.pairs[0][which].parent}: has 1 pictures that are not read, the fi")
        assert f"the first is {stranger}; want only NAME" in str(error.value)


@pytest.mark.parametrize("name", WITH_FOLDERS)
def test_what_is_no_picture_may_lie_there(tmp_path: Path, name: str) -> None:
    built = LAYOUTS[name].build(tmp_path)
    for folder in {path.parent for pair in built.pairs for path in pair}:
        for other in ("notes.txt", "Thumbs.db", "x_polygons.json", "._x.jpg", ".hidden.png", "@eaDir/x.jpg"):
            (folder / other).parent.mkdir(exist_ok=True)
            (folder / other).write_bytes(b"")
    assert len(open_dataset(built.data()).train) == SPLIT


@pytest.mark.parametrize("name", WITH_LISTS)
def test_what_a_list_does_not_name_may_lie_there(tmp_path: Path, name: str) -> None:
    built = LAYOUTS[name].build(tmp_path)
    for image, label in built.pairs[:1]:
        write_image(image.with_name("unlisted.png"), 0)
        shutil.copy(label, label.with_name(f"unlisted{label.suffix}"))
    assert len(open_dataset(built.data()).train) == SPLIT


@pytest.mark.parametrize("name", WITH_LISTS)
def test_a_list_names_a_picture_of_another_suffix(tmp_path: Path, name: str) -> None:
    built = LAYOUTS[name].build(tmp_path)
    image = built.pairs[0][0]
    image.unlink()
    write_image(image.with_suffix(".png"), 0)
    refused(built, f"{image}: no such file (there is {image.stem}.png), but", f"names {image.stem}")


def test_names_in_lists_may_have_folders(tmp_path: Path) -> None:
    built = LAYOUTS["pascal_context_59"].build(tmp_path)
    image, label = built.pairs[0]
    for path in (image, label):
        (path.parent / "more").mkdir()
        path.rename(path.parent / "more" / path.name)
    (tmp_path / "ImageSets/SegmentationContext/train.txt").write_text(f"more/{image.stem}\n2008_1\n")
    assert len(open_dataset(built.data()).train) == SPLIT


# Cityscapes: other pictures that belong there


def test_cityscapes_as_it_is_unpacked(tmp_path: Path) -> None:
    built = LAYOUTS["cityscapes"].build(tmp_path)
    for _, label in built.pairs:
        for kind in ("color", "instanceIds", "labelTrainIds", "instanceTrainIds"):
            write_label(label.with_name(label.name.replace("labelIds", kind)), every_id([255]))
        label.with_name(label.name.replace("labelIds.png", "polygons.json")).write_text("{}")
    data = open_dataset(built.data())
    assert len(data.train) == len(data.val) == SPLIT


def test_cityscapes_with_other_pictures(tmp_path: Path) -> None:
    built = LAYOUTS["cityscapes"].build(tmp_path)
    image, label = built.pairs[0]
    odd = image.with_name("ulm_7_leftimg8bit.png")
    write_image(odd, 0)
    refused(built, f"{image.parent}: has 1 pictures", f"the first is {odd.name}; want only NAME_leftImg8bit.png in it")
    odd.unlink()
    odd = image.parent.parent / image.name
    write_image(odd, 0)
    refused(built, f"{odd.parent}: has 1 pictures", f"first is {odd.name}; want only folders CITY with files NAME_left")
    odd.unlink()
    odd = label.with_name("ulm_0_gtFine_labels.png")
    write_label(odd, every_id([0]))
    refused(built, f"{label.parent}: has 1 pictures", odd.name, "(and NAME_gtFine_color.png or", "not read)")


def test_coco_leaves_converted_labels_alone_in_any_case(tmp_path: Path) -> None:
    built = LAYOUTS["coco_stuff_164k"].build(tmp_path)
    for _, label in built.pairs:
        write_label(label.with_name(f"{label.stem}_labelTrainIds.png"), every_id([11]))
        label.with_name(f"{label.stem}_labelTrainIds.png").rename(label.with_name(f"{label.stem}_labelTrainIds.PNG"))
    assert len(open_dataset(built.data()).train) == SPLIT


@pytest.mark.skipif(os.name == "nt", reason="names are no bytes there")
def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    built = LAYOUTS["camvid"].build(tmp_path)
    image, label = built.pairs[0]
    strange = os.fsdecode(b"stra\xdfe")
    image.rename(image.with_name(f"{strange}.jpg"))
    label = label.rename(label.with_name(f"{strange}.png"))
    assert len(open_dataset(built.data()).train) == SPLIT
    write_label(label, np.zeros((3, 3), np.uint8))
    refused(built, str(label), f"got 3x3 px, want {SIZE[0]}x{SIZE[1]} as its image")
