"""Pictures of every kind: what the one decoder makes of them, in all verbs."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_layouts import LAYOUTS, SIZE, every_id, write_label
from PIL import Image
from PIL.TiffImagePlugin import AppendingTiffWriter

from fastpixcon.training import TrainingError
from fastpixcon.training.data import open_dataset
from fastpixcon.training.data.decoding import image_header, label_size, read_ids, read_image, without_warnings
from fastpixcon.training.figures.own_images import image_of

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)
RAMP8 = np.round(RAMP / 257).astype(np.uint8)  # v * 255 / 65535
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
DEEP = np.random.default_rng(0).integers(0, 65536, (16, 24, 3), dtype=np.uint16)
DEEP8 = np.round(DEEP / 257).astype(np.uint8)
OPAQUE = np.full((*DEEP.shape[:2], 1), 65535, dtype=np.uint16)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(pixels: np.ndarray, colour: int, bits: int = 16, before: bytes = b"", behind: bytes = b"") -> bytes:
    """A PNG file of rows as they are, with chunks before and behind its pixels."""
    rows = b"".join(b"\0" + row.astype(f">u{max(bits, 8) // 8}").tobytes() for row in pixels)
    width = pixels.shape[1] * 8 // min(bits, 8)
    header = struct.pack(">IIBBBBB", width, len(pixels), bits, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(rows)) + behind + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def tiff(content: bytes, width: int, height: int, **tags: int | tuple[int, ...]) -> bytes:
    """A little-endian TIFF file of one strip; numbers of tags as ``t258=8``."""
    values: dict[int, int | tuple[int, ...]] = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1}
    values |= {int(tag[1:]): value for tag, value in tags.items()} | {278: height, 279: len(content)}
    entries, more = b"", b""
    behind = 8 + 2 + 12 * (len(values) + 1) + 4
    for tag, value in sorted((values | {273: 0}).items()):
        many = value if isinstance(value, tuple) else (value,)
        kind = ("H", 3) if tag in (258, 259, 262, 277, 284, 339, 274, 338) else ("I", 4)
        packed = struct.pack(f"<{len(many)}{kind[0]}", *many)
        if len(packed) > 4:
            packed, more = struct.pack("<I", behind + len(more)), more + packed
        entries += struct.pack("<HHI", tag, kind[1], len(many)) + packed.ljust(4, b"\0")
    place = entries.index(struct.pack("<HHI", 273, 4, 1)) + 8
    entries = entries[:place] + struct.pack("<I", behind + len(more)) + entries[place + 4 :]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(values) + 1) + entries + b"\0\0\0\0" + more + content


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def saved_jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG")
    return file.getvalue()


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """What EXIF says: where row 0 and column 0 of the file are shown."""
    return {
        1: pixels,  # top, left
        2: pixels[:, ::-1],  # top, right
        3: pixels[::-1, ::-1],  # bottom, right
        4: pixels[::-1],  # bottom, left
        5: pixels.swapaxes(0, 1),  # left, top
        6: np.rot90(pixels, -1),  # right, top
        7: pixels[::-1, ::-1].swapaxes(0, 1),  # right, bottom
        8: np.rot90(pixels),  # left, bottom
    }[orientation]


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(TrainingError) as error:
        read_image(str(path))
    for part in (str(path), *parts):
        assert part in str(error.value)


# 16 bits


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm", "lzw.tif", "big.tif"])
def test_grey_of_16_bits_is_scaled(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    pixels = RAMP.astype(">u2") if name == "big.tif" else RAMP
    Image.fromarray(pixels).save(path, **({"compression": "tiff_lzw"} if name == "lzw.tif" else {}))
    read = read_image(str(path))
    assert read.shape == (256, 256, 3)
    assert (read == RAMP8[:, :, None]).all()


@pytest.mark.parametrize(
    ("pixels", "colour"),
    [(DEEP, 2), (np.dstack([DEEP, OPAQUE]), 6), (np.dstack([DEEP[:, :, :1], OPAQUE]), 4)],
    ids=["RGB", "RGBA", "LA"],
)
def test_colour_of_16_bits_is_rounded_not_cut_off(tmp_path: Path, pixels: np.ndarray, colour: int) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(pixels, colour))
    assert (read_image(str(path)) == (DEEP8[:, :, :1] if colour == 4 else DEEP8)).all()


def test_tiff_of_16_bits_in_colour(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(DEEP.astype("<u2").tobytes(), 24, 16, t258=(16, 16, 16), t262=2, t277=3))
    assert (read_image(str(path)) == DEEP8).all()
    planes = DEEP.astype("<u2").transpose(2, 0, 1).tobytes()
    path.write_bytes(tiff(planes, 24, 16, t258=(16, 16, 16), t262=2, t277=3, t284=2))
    refused(path, "planes of 16 bits of mode RGB")


def test_tiff_of_12_bits_and_with_white_as_zero(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    values = np.arange(0, 4096, 2, dtype=np.uint16).reshape(32, 64)
    first, second = values.reshape(-1, 2).astype(int).T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8)
    path.write_bytes(tiff(packed.tobytes(), 64, 32, t258=12))
    assert (read_image(str(path)) == np.round(values / 4095 * 255).astype(np.uint8)[:, :, None]).all()
    path.write_bytes(tiff(RAMP.astype("<u2").tobytes(), 256, 256, t258=16, t262=0))
    assert (read_image(str(path)) == 255 - RAMP8[:, :, None]).all()


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".png", {}),
        (".tif", {}),
        (".tif", {"compression": "tiff_lzw"}),
        (".jpg", {}),
        (".webp", {"lossless": True}),
    ],
)
def test_orientation_is_applied(tmp_path: Path, suffix: str, options: dict[str, Any], orientation: int) -> None:
    plain, path = tmp_path / f"plain{suffix}", tmp_path / f"x{suffix}"
    Image.fromarray(DEEP8).save(plain, **options)
    Image.fromarray(DEEP8).save(path, exif=with_orientation(orientation), **options)
    wanted = turned(read_image(str(plain)), orientation)
    assert (read_image(str(path)) == wanted).all()
    assert image_header(str(path)).size == wanted.shape[1::-1]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_orientation_of_grey_tiff(tmp_path: Path, mode: str, orientation: int) -> None:
    """Pillow maps these into memory with width and height swapped."""
    path, pixels = tmp_path / "x.tif", DEEP[:, :, 0] if mode == "I;16" else DEEP8[:, :, 0]
    Image.fromarray(pixels).save(path, exif=with_orientation(orientation))
    assert (read_image(str(path)) == turned(DEEP8[:, :, :1], orientation)).all()


def test_orientation_behind_the_pixels_of_a_png(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    exif = chunk(b"eXIf", with_orientation(6).tobytes().removeprefix(b"Exif\0\0"))
    path.write_bytes(png(DEEP8, 2, 8, behind=exif))
    assert (read_image(str(path)) == turned(DEEP8, 6)).all()
    assert image_header(str(path), behind_pixels=True).size == (16, 24)


def test_orientation_in_xmp(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    segment = b"http://ns.adobe.com/xap/1.0/\0" + xmp
    content = saved_jpeg(DEEP8)
    path.write_bytes(content[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + content[2:])
    assert read_image(str(path)).shape == (24, 16, 3)
    assert image_header(str(path)).size == (16, 24)


def test_broken_exif_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    broken = b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12"
    for exif in (b"Exif\0\0garbage", broken, with_orientation(0).tobytes(), with_orientation(9).tobytes()):
        Image.fromarray(DEEP8).save(path, exif=exif)
        with without_warnings():
            assert read_image(str(path)).shape == (16, 24, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_label_fits_the_image_as_it_is_shown(tmp_path: Path, suffix: str) -> None:
    built = LAYOUTS["camvid" if suffix == ".jpg" else "camvid_segnet"].build(tmp_path)
    image, label = built.pairs[0]
    pixels = np.array(Image.open(image))
    Image.fromarray(pixels).save(image, exif=with_orientation(6))
    with pytest.raises(TrainingError) as error:
        open_dataset(built.data())
    wanted = f"{label}: got 24x16 px, want 16x24 as its image {image}, which has an EXIF orientation (6)"
    assert str(error.value).startswith(wanted)
    write_label(label, np.rot90(every_id(list(built.layout.train_ids)), -1).copy())
    shown, ids = open_dataset(built.data()).train[0]
    assert shown.shape == (3, 24, 16)
    assert ids.shape == (24, 16)
    assert np.array_equal(shown.permute(1, 2, 0).numpy(), read_image(str(image)))


def test_a_label_of_an_image_whose_orientation_comes_late(tmp_path: Path) -> None:
    built = LAYOUTS["camvid_segnet"].build(tmp_path)
    image, label = built.pairs[0]
    exif = chunk(b"eXIf", with_orientation(8).tobytes().removeprefix(b"Exif\0\0"))
    content = image.read_bytes()
    image.write_bytes(content[:-12] + exif + content[-12:])
    with pytest.raises(TrainingError, match=r"want 16x24 as its image .* EXIF orientation \(8\)"):
        open_dataset(built.data()).train[0]
    write_label(label, np.rot90(every_id(list(built.layout.train_ids))).copy())
    assert open_dataset(built.data()).train[0][0].shape == (3, 24, 16)


# Modes


def coloured(mode: str, *channels: np.ndarray) -> Image.Image:
    return Image.frombytes(mode, (16, 16), np.dstack(channels).tobytes())


def test_modes_that_have_a_reading(tmp_path: Path) -> None:
    palette = coloured("P", GREY)
    palette.putpalette([255 - i // 3 for i in range(768)])
    half, full = GREY // 2, np.full_like(GREY, 255)
    cmyk = np.repeat(((255 - GREY.astype(int)) * (255 - half) / 255)[:, :, None], 3, 2)
    for name, picture, wanted in [
        ("x.png", coloured("L", GREY), np.dstack([GREY] * 3)),
        ("x.png", palette, np.dstack([255 - GREY] * 3)),
        ("x.gif", palette, np.dstack([255 - GREY] * 3)),
        ("x.bmp", coloured("RGB", GREY, half, full), np.dstack([GREY, half, full])),
        ("x.png", coloured("RGBA", GREY, half, full, full), np.dstack([GREY, half, full])),
        ("x.tif", coloured("LA", GREY, full), np.dstack([GREY] * 3)),
        ("x.tif", coloured("CMYK", GREY, GREY, GREY, half), cmyk),
        ("x.png", coloured("L", GREY).point(lambda v: 255 * (v > 99), "1"), np.dstack([255 * (GREY > 99)] * 3)),
    ]:
        picture.save(tmp_path / name)
        read = read_image(str(tmp_path / name))
        assert np.abs(read.astype(float) - wanted).max() <= (1 if picture.mode == "CMYK" else 0), (name, picture.mode)


def test_modes_that_have_none(tmp_path: Path) -> None:
    half, full = GREY // 2, np.full_like(GREY, 255)
    for name, picture, mode in [
        ("x.tif", Image.fromarray(GREY.astype(np.float32)), "mode F (floating point)"),
        ("x.tif", Image.fromarray(GREY.astype(np.int32)), "mode I (integers of 32 bits"),
        ("x.tif", coloured("LAB", GREY, GREY, GREY), "mode LAB"),
        ("x.tif", coloured("RGBX", GREY, half, full, full), "4 channels, of which mode RGB leaves some out"),
        ("x.png", coloured("RGBA", GREY, half, full, GREY), "mode RGBA with transparent pixels"),
        ("x.webp", coloured("RGBA", GREY, half, full, GREY), "mode RGBA with transparent pixels"),
        ("x.png", coloured("LA", GREY, GREY), "mode LA with transparent pixels"),
    ]:
        picture.save(tmp_path / name)
        refused(tmp_path / name, mode)
    signed = tmp_path / "signed.tif"
    signed.write_bytes(tiff(RAMP.tobytes(), 256, 256, t258=16, t339=2))
    refused(signed, "mode I (integers of 32 bits or with a sign)")
    signed.write_bytes(tiff(GREY.tobytes(), 16, 16, t339=2))
    refused(signed, "mode L whose values have a sign")


def test_transparency_by_colour(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    palette = coloured("P", GREY % 100)
    palette.putpalette([i % 256 for i in range(768)])
    for picture, there, missing in [
        (palette, 99, 100),
        (palette, bytes([*[255] * 99, 254]), bytes([*[255] * 100, 0])),
        (coloured("L", GREY // 2), 127, 128),
        (coloured("RGB", GREY, GREY, GREY), (5, 5, 5), (5, 5, 6)),
    ]:
        picture.save(path, transparency=missing)
        assert (read_image(str(path)) == np.array(picture.convert("RGB"))).all()
        picture.save(path, transparency=there)
        refused(path, f"mode {picture.mode} with transparent pixels")
    deep = DEEP[:, :, 0]
    for key, is_there in ((deep[3, 4], True), (np.setdiff1d(np.arange(65536), deep)[0], False)):
        path.write_bytes(png(deep, 0, before=chunk(b"tRNS", struct.pack(">H", key))))
        if is_there:
            refused(path, "with transparent pixels")
        else:
            assert (read_image(str(path)) == DEEP8[:, :, :1]).all()
    bits = np.array([[0b00011011]] * 4)  # 0 to 3 in each row
    path.write_bytes(png(bits, 0, 2))
    assert read_image(str(path))[0, :, 0].tolist() == [0, 85, 170, 255]
    path.write_bytes(png(bits, 0, 2, before=chunk(b"tRNS", struct.pack(">H", 2))))
    refused(path, "with transparent pixels")


def test_several_frames(tmp_path: Path) -> None:
    first, second = coloured("RGB", GREY, GREY, GREY), coloured("RGB", GREY // 2, GREY, GREY)
    for name, what in (("x.gif", "frames"), ("x.png", "frames"), ("x.webp", "frames"), ("x.tif", "pages")):
        first.save(tmp_path / name, save_all=True, append_images=[second])
        refused(tmp_path / name, f"file of several {what}, want a single picture")
    first.save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[second])
    assert np.abs(read_image(str(tmp_path / "phone.jpg")).astype(int) - GREY[:, :, None]).mean() < 3
    with AppendingTiffWriter(tmp_path / "preview.tif") as file:
        coloured("L", GREY).save(file, format="TIFF")
        file.newFrame()
        Image.new("L", (4, 4)).save(file, format="TIFF", tiffinfo={254: 1})  # "a reduced version of another image"
    assert Image.open(tmp_path / "preview.tif").n_frames == 2
    assert (read_image(str(tmp_path / "preview.tif")) == GREY[:, :, None]).all()


# Labels


def test_labels_keep_their_ids_or_are_refused(tmp_path: Path) -> None:
    ids = GREY // 16  # 0 to 15
    path = tmp_path / "label.png"

    def says(*parts: str) -> None:
        for read in (read_ids, label_size):
            with pytest.raises(TrainingError) as error:
                read(str(path))
            assert all(part in str(error.value) for part in (str(path), *parts)), error.value

    palette = coloured("P", ids)
    palette.putpalette([i % 256 for i in range(768)])
    for picture, options in ((coloured("L", ids), {}), (palette, {}), (palette, {"bits": 4})):
        picture.save(path, **options)
        assert (read_ids(str(path)) == ids).all()
        assert label_size(str(path)) == (16, 16)
    for orientation in (3, 6):
        coloured("L", ids).save(path, exif=with_orientation(orientation))
        says(f"a label with an EXIF orientation ({orientation})")
    coloured("L", ids).save(path, exif=with_orientation(1))
    assert (read_ids(str(path)) == ids).all()
    Image.fromarray(RAMP).save(path)
    says("got a I;16 picture, want one channel of class ids of 8 bits")
    path.write_bytes(png(np.array([[0b00011011]] * 4), 0, 2))  # Pillow gives 0, 85, 170, 255
    says("got grey of mode L;2, want one channel of class ids of 8 bits")
    path.write_bytes(tiff(ids.tobytes(), 16, 16, t262=0))  # Pillow gives 255 - id
    says("got grey of mode L;I")
    coloured("L", ids).save(path, format="JPEG")
    says("got a JPEG file, want class ids in a PNG file")
    path.write_bytes(b"P5 16 16 15\n" + ids.tobytes())  # Pillow gives 17 * id
    says("got a PPM file, want class ids in a PNG file")
    coloured("L", ids).save(path, save_all=True, append_images=[coloured("L", ids + 1)])
    says("several frames")


def test_images_are_checked_before_training(tmp_path: Path) -> None:
    built = LAYOUTS["camvid_segnet"].build(tmp_path)
    image = built.pairs[0][0]
    for picture, mode in (
        (Image.fromarray(np.zeros(SIZE[::-1], np.float32)), "mode F"),
        (Image.new("RGBA", SIZE, (1, 2, 3, 4)), "mode RGBA with transparent pixels"),
    ):
        picture.save(image, format="TIFF" if picture.mode == "F" else "PNG")
        with pytest.raises(TrainingError) as error:
            open_dataset(built.data())
        assert f"{image}: got a picture of {mode}" in str(error.value)


# Sizes and texts that Pillow refuses or warns of


def test_a_picture_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "x.ppm"
    path.write_bytes(b"P6 20000 20000 255\n")
    refused(path, "cannot be read: 400000000 pixels, want at most 178956970")


@pytest.mark.filterwarnings("error")
def test_a_large_picture_is_read_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = LAYOUTS["camvid_segnet"].build(tmp_path)
    width, height = SIZE
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", width * height - 1)
    assert len(open_dataset(built.data()).train[0]) == 2
    assert image_of(built.pairs[0][0]).shape == (3, height, width)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", width * height // 2 - 1)
    with pytest.raises(TrainingError, match="384 pixels, want at most 382"):
        open_dataset(built.data())


def test_a_png_with_a_long_text(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    text = b"Comment\0\0" + zlib.compress(bytes(3_000_000))
    path.write_bytes(png(DEEP8, 2, 8, before=chunk(b"zTXt", text)))
    refused(path, "a text in it is too long")


# The verb
