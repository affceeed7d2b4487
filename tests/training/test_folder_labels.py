"""Labels of a user's own folder: ids, palettes, colours, and what they mean."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from own_folders import (
    COLOURS,
    SIZE,
    build,
    data_of,
    describe,
    label_of,
    opened,
    write_colours,
    write_ids,
    write_palette,
)
from PIL import Image

from fastpixcon.training import TrainingError
from fastpixcon.training.data import IGNORE, DataSet, dataset_ids
from fastpixcon.training.data.base import distinct_colours
from fastpixcon.training.data.class_table import packed, unpacked
from fastpixcon.training.data.decoding import read_any_ids, read_colours

CSV = "name,r,g,b\r\nsky,0,0,0\r\nroad,128,0,0\r\ntree,0,200,30\r\nVoid,9,9,250\r\n"
NAMES = ["a", "b", "c", "d"]


def first(data: DataSet) -> np.ndarray:
    return data.train[0][1].numpy()


def mapped(raw: np.ndarray, table: dict[int, int]) -> np.ndarray:
    return np.vectorize(table.__getitem__)(raw)


def write_deep(path: Path, raw: np.ndarray) -> None:
    write_ids(path, raw * 20000, np.uint16)


def write_three(path: Path, raw: np.ndarray) -> None:
    write_ids(path, np.stack([raw] * 3, -1))


def write_bits(path: Path, raw: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(raw > 1).save(path, bits=1)


def write_sixteen(path: Path, raw: np.ndarray) -> None:
    """Grey of 4 bits, which readers scale by 17."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes(row[0::2] * 16 + row[1::2]) for row in raw.astype(np.uint8))
    header = struct.pack(">IIBBBBB", raw.shape[1], raw.shape[0], 4, 0, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("write", "suffix", "raws"),
    [
        (write_ids, ".png", [0, 1, 2, 3]),
        (write_ids, ".tif", [0, 1, 2, 3]),
        (write_ids, ".bmp", [0, 1, 2, 3]),
        (write_deep, ".png", [0, 20000, 40000, 60000]),
        (write_deep, ".TIFF", [0, 20000, 40000, 60000]),
        (write_palette, ".png", [0, 1, 2, 3]),
        (write_three, ".png", [0, 1, 2, 3]),
        (write_sixteen, ".png", [0, 1, 2, 3]),
        (write_bits, ".png", [0, 0, 1, 1]),
    ],
)
def test_ids_of_every_kind_without_a_description(
    write: Callable[[Path, np.ndarray], None], suffix: str, raws: list[int], tmp_path: Path
) -> None:
    raw = build(tmp_path, write, suffix)
    data = opened(tmp_path)
    values = sorted(set(raws))
    assert np.array_equal(first(data), mapped(raw, {i: values.index(raws[i]) for i in range(4)}))
    assert list(data.classes) == [f"class {value}" for value in values]
    assert any(f"labels are ids; {len(values)} classes, the ids that occur" in note for note in data.notes)
    colours = (
        [tuple(map(int, colour)) for colour in COLOURS] if write is write_palette else distinct_colours(1, len(values))
    )
    assert list(data.palette) == colours
    assert data.described is not None
    assert opened(tmp_path, **data.described.__dict__).described == data.described


@pytest.mark.parametrize("kind", ["rgb", "rgba", "palette", "grey too"])
def test_colours_by_class_dict(kind: str, tmp_path: Path) -> None:
    """CamVid as it is passed on; Void does not count."""
    raw = build(tmp_path, write_colours)
    (tmp_path / "class_dict.csv").write_bytes(b"\xef\xbb\xbf" + CSV.encode())
    label = next((tmp_path / "labels" / "train").iterdir())
    if kind == "rgba":
        Image.open(label).convert("RGBA").save(label)
    if kind == "palette":
        build(tmp_path, lambda path, ids: write_palette(path, 3 - ids, COLOURS[::-1]))
    if kind == "grey too":  # all black, which a program saved as grey
        write_ids(tmp_path / "labels" / "train" / "train1.png", np.zeros(SIZE[::-1]))
    data = opened(tmp_path)
    assert list(data.classes) == ["sky", "road", "tree"]
    assert list(data.palette) == [(0, 0, 0), (128, 0, 0), (0, 200, 30)]
    assert np.array_equal(first(data), mapped(raw, {0: 0, 1: 1, 2: 2, 3: IGNORE}))
    assert "Void does not count" in data.notes
    assert "labels are colours; 3 classes, of class_dict.csv" in data.notes
    assert list(opened(tmp_path, ignore=()).classes) == ["sky", "road", "tree", "Void"]
    data = opened(tmp_path, ignore=("sky", (9, 9, 250)))  # by its name, by its colour
    assert list(data.classes) == ["road", "tree"]


@pytest.mark.parametrize(
    "text",
    [
        "Name,R,G,B\nsky,0,0,0\nroad,128,0,0\ntree,0,200,30\ncar,9,9,250\n",
        "name;r;g;b\nsky;0;0;0\nroad;128;0;0\ntree;0;200;30\ncar;9;9;250\n",
        "sky,0,0,0\nroad,128,0,0\ntree,0,200,30\ncar,9,9,250",
        " r, g, b, name\n0,0,0,sky\n128,0,0,road\n0,200,30,tree\n\n9,9,250,car\n",
        "class,red,green,blue,note\nsky,0,0,0,x\nroad,128,0,0,\ntree,0,200,30,\ncar,9,9,250,\n",
    ],
)
def test_tables_of_colours_as_people_write_them(text: str, tmp_path: Path) -> None:
    raw = build(tmp_path, write_colours)
    (tmp_path / "Class_Dict.csv").write_text(text)
    data = opened(tmp_path)
    assert list(data.classes) == ["sky", "road", "tree", "car"]
    assert np.array_equal(first(data), raw)


@pytest.mark.parametrize(
    ("name", "text", "wrong"),
    [
        ("class_dict.csv", "name,r,g,b\nsky,0,0,256\n", "line 2: got '256', want a whole number from 0 to 255"),
        ("class_dict.csv", "name,r,g,b\nsky,0,0\n", "line 2: got 3 columns of 4"),
        ("class_dict.csv", "name,r,g\nsky,0,0\n", "got the columns name, r, g, want a table of classes"),
        ("class_dict.csv", "", "empty, want a table of classes"),
        ("class_dict.csv", CSV.replace("tree", "sky"), "got the class sky 2 times, want each once"),
        ("class_dict.csv", CSV.replace("0,200,30", "0,0,0"), "sky and tree both have [0, 0, 0]"),
        ("classes.txt", "\n", "has no classes, want some"),
        ("classes.txt", "a\nb\nc\nd\n", "classes: a has no colour, but the labels are colours"),
        ("classes.json", "3", "got int, want a list of names, or names by id"),
        ("classes.json", "{", "no JSON, want names of classes"),
        ("none", "", "labels are colours, and nothing says of which classes; want class_dict.csv (name,r,g,b) in it"),
    ],
)  # fmt: skip
def test_tables_that_are_wrong(name: str, text: str, wrong: str, tmp_path: Path) -> None:
    build(tmp_path, write_colours)
    (tmp_path / name).write_text(text)
    with pytest.raises(TrainingError, match=re.escape(wrong)):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "a\nb\n\nc\nd\n"),
        ("classes.json", '["a", "b", "c", "d"]'),
        ("classes.json", '{"0": "a", "1": "b", "2": "c", "3": "d"}'),
        ("classes.json", '{"a": 0, "b": 1, "c": 2, "d": 3}'),
        ("classes.csv", "id,name\n0,a\n1,b\n2,c\n3,d\n"),
        ("class_dict.csv", "name,r,g,b\na,1,0,0\nb,0,1,0\nc,0,0,1\nd,1,1,0\n"),
        ("dataset.toml", 'classes = ["a", "b", "c", "d"]'),
        ("dataset.toml", "".join(f'[[classes]]\nname = "{name}"\n' for name in "abcd")),
    ],
)  # fmt: skip
def test_names_of_classes(name: str, text: str, tmp_path: Path) -> None:
    raw = build(tmp_path)
    (tmp_path / name).write_text(text)
    data = opened(tmp_path)
    assert list(data.classes) == NAMES
    assert np.array_equal(first(data), raw)


def test_raw_ids_several_of_a_class_and_several_that_do_not_count(tmp_path: Path) -> None:
    raw = build(tmp_path, lambda path, ids: write_ids(path, np.array([7, 300, 11, 5000])[ids], np.uint16))
    describe(tmp_path, """
ignore = [11, 12]
[[classes]]
name = "road"
ids = [5000, 7]
colour = [1, 2, 3]
[[classes]]
name = "sky"
id = 300
""")  # fmt: skip
    data = opened(tmp_path)
    assert (list(data.classes), data.palette[0]) == (["road", "sky"], (1, 2, 3))
    assert np.array_equal(first(data), mapped(raw, {0: 0, 1: 1, 2: IGNORE, 3: 0}))
    assert dataset_ids(replace(data_of(tmp_path), folder=data.described)) == [5000, 300]


@pytest.mark.parametrize("named", [True, False])
def test_reduce_zero_label(named: bool, tmp_path: Path) -> None:
    """0 does not count, k is class k - 1, and 255 stays what does not count."""
    raw = build(tmp_path, lambda path, ids: write_ids(path, np.array([0, 1, 2, 255])[ids]))
    classes = 'classes = ["one", "two"]\n' if named else ""
    describe(tmp_path, f"{classes}reduce_zero_label = true\n")
    data = opened(tmp_path)
    assert list(data.classes) == (["one", "two"] if named else ["class 1", "class 2"])
    assert np.array_equal(first(data), mapped(raw, {0: IGNORE, 1: 0, 2: 1, 3: IGNORE}))
    assert set(torch.cat([split[i][1].flatten() for split in (data.train, data.val) for i in range(2)]).tolist()) == {
        0,
        1,
        IGNORE,
    }
    assert data.described is not None
    again = opened(tmp_path, **data.described.__dict__)
    assert (list(again.classes), again.described) == (list(data.classes), data.described)
    assert np.array_equal(first(again), first(data))


def test_a_class_whose_id_does_not_count_is_none_and_the_others_keep_theirs(tmp_path: Path) -> None:
    raw = build(tmp_path)
    describe(tmp_path, 'classes = ["null", { name = "b" }, "c", "d"]\nignore = [0]')
    data = opened(tmp_path)
    assert list(data.classes) == ["b", "c", "d"]
    assert np.array_equal(first(data), mapped(raw, {0: IGNORE, 1: 0, 2: 1, 3: 2}))
    assert "null does not count" in data.notes


def test_255_does_not_count_unless_it_is_a_class(tmp_path: Path) -> None:
    raw = build(tmp_path, lambda path, ids: write_ids(path, np.array([0, 255, 0, 255])[ids]))
    with pytest.raises(TrainingError, match=r"labels have the ids 0, 255, want two classes .*; of masks: classes = "):
        opened(tmp_path)
    describe(tmp_path, 'classes = [{ name = "background", id = 0 }, { name = "object", id = 255 }]')
    assert np.array_equal(first(opened(tmp_path)), raw % 2)
    (tmp_path / "dataset.toml").unlink()
    (tmp_path / "class_dict.csv").write_text(
        "name,r,g,b\nbackground,0,0,0\nobject,255,255,255\n"
    )  # grey by its colours
    data = opened(tmp_path)
    assert np.array_equal(first(data), raw % 2)
    assert "labels are colours; 2 classes, of class_dict.csv" in data.notes


def test_palettes_are_ids_unless_their_colours_are_those_of_classes(tmp_path: Path) -> None:
    raw = build(tmp_path, lambda path, ids: write_palette(path, ids, COLOURS[[1, 0, 2, 3]]))
    describe(tmp_path, 'classes = "table.csv"')
    (tmp_path / "table.csv").write_text(CSV)
    data = opened(tmp_path)
    assert np.array_equal(first(data), mapped(raw, {0: 1, 1: 0, 2: 2, 3: IGNORE}))
    assert np.array_equal(first(opened(tmp_path, label_kind="ids", ignore=())), raw)
    (tmp_path / "table.csv").write_text(CSV.replace("128,0,0", "127,0,0"))
    assert np.array_equal(first(opened(tmp_path, ignore=())), raw)  # one that is none of theirs


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('classes = ["a", "b"]\nignore = ["x"]', "ignore: got 'x', want an id, a colour or one of the classes a, b"),
        ('classes = ["a", "b", "c"]\nignore = [1, 2]', "classes: got 1 that count, want 2 to 254"),
        ('classes = ["a", "b", "c"]\nignore = [[1, 2, 3]]', "ignore: got (1, 2, 3), want ids, as the labels have"),
        ('ignore = ["x"]', "ignore: got 'x', want ids: nothing names the classes"),
        ('classes = [{ name = "a", id = 1 }, "b"]', "got ids of some classes, none of b"),
        ('classes = [{ name = "a", id = 1, ids = [2] }]', "a: got id and ids, want one of them"),
        ('classes = [{ name = "a", id = 1 }, { name = "b", id = 1 }]', "a and b both have 1"),
        ('classes = [{ name = "a", id = 1 }]\nreduce_zero_label = true', "got true and ids of classes"),
        ('classes = "none.csv"', "none.csv: no such file, but classes names it"),
        ('label_kind = "colours"\nreduce_zero_label = true\nclasses = ["a", "b"]', "but the labels are colours"),
        ("classes = [" + ", ".join(f'"c{i}"' for i in range(255)) + "]", "classes: got 255 that count, want 2 to 254"),
    ],
)  # fmt: skip
def test_meanings_that_are_wrong(text: str, wrong: str, tmp_path: Path) -> None:
    build(tmp_path)
    describe(tmp_path, text)
    with pytest.raises(TrainingError, match=re.escape(wrong)):
        opened(tmp_path)


def test_two_tables_are_not_clear(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "classes.json").write_text('["a", "b", "c", "d"]')
    with pytest.raises(TrainingError, match=r"got classes.json and classes.txt, want one of them"):
        opened(tmp_path)
    describe(tmp_path, 'classes = "classes.txt"')
    assert list(opened(tmp_path).classes) == NAMES


def test_254_classes_and_every_id(tmp_path: Path) -> None:
    values = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE[::-1]) % 254
    build(tmp_path, lambda path, _: write_ids(path, values))
    data = opened(tmp_path)
    assert len(data.classes) == 254
    assert len(set(data.palette)) == 254
    assert np.array_equal(first(data), values)
    build(tmp_path, lambda path, _: write_ids(path, values + 1000, np.uint16))
    assert np.array_equal(first(opened(tmp_path)), values)


def test_colours_are_packed_as_they_are_named(tmp_path: Path) -> None:
    write_colours(tmp_path / "a.png", label_of(0))
    found = np.unique(read_colours(str(tmp_path / "a.png"))).tolist()
    assert found == sorted(packed(colour) for colour in COLOURS.tolist())
    assert [packed(unpacked(value)) for value in found] == found


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda path: Image.new("RGB", (4, 4), (1, 2, 3)).save(path), "got colours, want one channel of class ids"),
        (lambda path: Image.new("F", (4, 4)).save(path, format="TIFF"), "got a F picture"),
        (lambda path: Image.new("L", (4, 4)).save(path, format="JPEG"), "got a JPEG file, want class ids in a PNG"),
        (lambda path: Image.fromarray(np.zeros((4, 4), np.int32)).save(path, format="TIFF"), "got a I picture"),
        (lambda path: Image.new("RGBA", (4, 4), (1, 1, 1, 9)).save(path), "transparent"),
    ],
)  # fmt: skip
def test_pictures_that_are_no_ids(make: Callable[[Path], None], wrong: str, tmp_path: Path) -> None:
    make(tmp_path / "a.png")
    with pytest.raises(TrainingError, match=re.escape(wrong)):
        read_any_ids(str(tmp_path / "a.png"))


def test_colours_by_a_description(tmp_path: Path) -> None:
    """A class may have several colours, of which the first is shown."""
    raw = build(tmp_path, write_colours)
    describe(tmp_path, """
ignore = [[0, 0, 0]]
[[classes]]
name = "road"
colours = [[0, 200, 30], [128, 0, 0]]
[[classes]]
name = "sky"
colour = [9, 9, 250]
""")  # fmt: skip
    data = opened(tmp_path)
    assert (list(data.classes), list(data.palette)) == (["road", "sky"], [(0, 200, 30), (9, 9, 250)])
    assert np.array_equal(first(data), mapped(raw, {0: IGNORE, 1: 0, 2: 0, 3: 1}))


def test_colours_of_classes_that_have_none(tmp_path: Path) -> None:
    """A background is grey, others are distinct, also from those that are given."""
    build(tmp_path)
    given = ", ".join(map(str, distinct_colours(1, 1)[0]))
    describe(tmp_path, f'classes = ["Background", "b", {{ name = "c", colour = [{given}] }}, "d"]')
    assert list(opened(tmp_path).palette) == [
        (40, 40, 40),
        *distinct_colours(2, 1),
        *distinct_colours(1, 1),
        *distinct_colours(3, 1),
    ]
