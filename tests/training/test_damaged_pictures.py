"""Pictures and matrices with bytes changed, cut off, left out, put in: read, or an error in one line that names them.

Every run draws a seed of its own; a failure tells it, and FASTPIXCON_DAMAGE_SEED repeats it.
"""

import io
import os
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_layouts import LAYOUTS, every_id
from PIL import Image, PngImagePlugin

from fastpixcon import cli
from fastpixcon.training import TrainingError
from fastpixcon.training.data import open_dataset
from fastpixcon.training.data.coco_stuff import _MATRIX
from fastpixcon.training.data.decoding import image_header, label_size, read_ids, read_image, without_warnings

SEED = int(os.environ.get("FASTPIXCON_DAMAGE_SEED", random.SystemRandom().randrange(2**32)))
TIMES = int(os.environ.get("FASTPIXCON_DAMAGE_TIMES", "60"))  # damaged files of each kind

NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
GREY = NOISE[:, :, 0] // 16
DEEP = NOISE[:, :, 0].astype(np.uint16) * 257


def saved(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(pixels)
    if options.pop("palette", False):
        picture = picture.convert("P")
    if options.pop("turned", False):
        options["exif"] = Image.Exif()
        options["exif"][274] = 6
    if options.pop("text", False):
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("Comment", "x" * 99, zip=True)
        options["pnginfo"].add_itxt("Title", "y" * 99, zip=True)
    picture.save(file, **options)
    return file.getvalue()


def matrix(of: type = np.uint8, **options: Any) -> bytes:
    from scipy.io import savemat

    file = io.BytesIO()
    savemat(file, {"captions": "a label", "S": every_id([0, 1, 182]).astype(of)}, **options)
    return file.getvalue()


PICTURES = {
    "png": lambda: saved(NOISE, format="PNG", turned=True, text=True),
    "png of 16 bits": lambda: saved(DEEP, format="PNG"),
    "png label": lambda: saved(GREY, format="PNG", text=True),
    "png with a palette": lambda: saved(NOISE[:, :, 0], format="PNG", palette=True, transparency=3),
    "apng": lambda: saved(NOISE, format="PNG", save_all=True, append_images=[Image.fromarray(255 - NOISE)]),
    "jpeg": lambda: saved(NOISE, format="JPEG", turned=True),
    "progressive jpeg": lambda: saved(NOISE, format="JPEG", progressive=True, comment=b"z" * 50),
    "mpo": lambda: saved(NOISE, format="MPO", save_all=True, append_images=[Image.fromarray(255 - NOISE)]),
    "tiff": lambda: saved(NOISE, format="TIFF", turned=True),
    "tiff of 16 bits": lambda: saved(DEEP, format="TIFF"),
    "tiff label": lambda: saved(GREY, format="TIFF"),
    "tiff with lzw": lambda: saved(NOISE, format="TIFF", compression="tiff_lzw"),
    "tiff with jpeg": lambda: saved(NOISE, format="TIFF", compression="jpeg"),
    "tiff of pages": lambda: saved(NOISE, format="TIFF", save_all=True, append_images=[Image.fromarray(NOISE)]),
    "gif": lambda: saved(NOISE[:, :, 0], format="GIF", palette=True),
    "gif of frames": lambda: saved(NOISE, format="GIF", save_all=True, append_images=[Image.fromarray(255 - NOISE)]),
    "webp": lambda: saved(NOISE, format="WEBP", turned=True),
    "webp without loss": lambda: saved(NOISE, format="WEBP", lossless=True),
    "bmp": lambda: saved(NOISE, format="BMP"),
    "ppm": lambda: saved(NOISE, format="PPM"),
    "jpeg 2000": lambda: saved(NOISE, format="JPEG2000"),
    "tga": lambda: saved(NOISE, format="TGA"),
}
MATRICES = {
    "mat": lambda: matrix(),
    "compressed mat": lambda: matrix(do_compression=True),
    "mat of version 4": lambda: matrix(format="4"),
    "mat of floats": lambda: matrix(of=np.float64, do_compression=True),
}


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A few changes; most near the beginning, where the headers are."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        place = rng.randrange(max(len(content), 1))
        if rng.random() < 0.5:
            place = min(place, rng.randrange(1, 200))
        kind = rng.choice(["flip", "byte", "long", "cut", "out", "in", "twice"])
        changed = bytearray(content)
        if kind == "cut":
            del changed[place:]
        elif kind == "out":
            del changed[place : place + rng.choice([1, 2, 4, 50])]
        elif kind == "in":
            changed[place:place] = rng.randbytes(rng.choice([1, 2, 4, 50]))
        elif kind == "twice":
            changed[place:place] = changed[place : place + 50]
        elif kind == "long":
            changed[place : place + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\0\0\0\1"])
        elif changed:
            place = min(place, len(changed) - 1)
            changed[place] = rng.randrange(256) if kind == "byte" else changed[place] ^ 1 << rng.randrange(8)
        content = bytes(changed)
    return content


def read_or_named(read: Callable[[str], Any], path: Path, note: str) -> None:
    try:
        read(str(path))
    except TrainingError as error:
        message = str(error)
        assert message.startswith(f"{path}: "), note
        assert "\n" not in message, note
        assert len(message) < len(str(path)) + 500, note
    except BaseException as error:
        raise AssertionError(f"{note}: {type(error).__name__} {error}") from error


@pytest.mark.parametrize("kind", [*PICTURES, *MATRICES])
def test_damaged_files_are_read_or_named(tmp_path: Path, kind: str) -> None:
    content = (PICTURES | MATRICES)[kind]()
    readers = [_MATRIX.size, _MATRIX.read] if kind in MATRICES else [read_image, image_header, read_ids, label_size]
    path = tmp_path / ("x.mat" if kind in MATRICES else "x.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with without_warnings():
            for time in range(TIMES):
                rng = random.Random(f"{SEED} {kind} {time}")
                path.write_bytes(damaged(content, rng))
                for read in readers:
                    read_or_named(read, path, f"FASTPIXCON_DAMAGE_SEED={SEED}, {kind}, {time}, {read.__name__}")


@pytest.mark.parametrize("layout", ["camvid", "camvid_segnet", "coco_stuff_10k"])
def test_a_data_set_with_damaged_files_is_opened_or_refused(tmp_path: Path, layout: str) -> None:
    built = LAYOUTS[layout].build(tmp_path)
    for which, path in enumerate(built.pairs[0]):
        content = path.read_bytes()
        for time in range(TIMES // 6):
            path.write_bytes(damaged(content, random.Random(f"{SEED} {layout} {which} {time}")))
            note = f"FASTPIXCON_DAMAGE_SEED={SEED}, {layout}, {which}, {time}"
            try:
                image, label = open_dataset(built.data()).train[0]
                assert image.shape[1:] == label.shape
            except TrainingError as error:
                named = str(error).startswith(tuple(f"{file}: " for file in built.pairs[0]))
            except BaseException as error:
                raise AssertionError(f"{note}: {type(error).__name__} {error}") from error
            else:
                named = True
            assert named, note
        path.write_bytes(content)


def test_predict_says_in_a_line_what_is_damaged(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in (
        ("empty.png", b""),
        ("half.jpg", PICTURES["jpeg"]()[:500]),
        ("half.png", PICTURES["png"]()[:500]),
        ("half.tif", PICTURES["tiff"]()[:500]),
        ("text.gif", b"GIF89a, says this text"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        assert cli.main(["predict", str(finished_run / "ce"), str(path), "--out", str(tmp_path / "out")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"fastpixcon: {path}: cannot be read: ")
