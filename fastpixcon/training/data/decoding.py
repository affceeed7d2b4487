"""From files to pixels: every picture that the program reads, of a data set or of a user, is opened here.

**Images** become RGB of 8 bits, as a viewer shows them: 16 bits a channel are scaled (v * 255 / 65535, rounded), grey,
palettes, CMYK (without a colour profile) and YCbCr converted, an EXIF orientation is applied. EXIF that is too broken
to tell an orientation has none. What has no such reading is an error that names file and mode: floats, integers beyond
16 bits, channels beyond colour, transparent pixels, several frames or pages (of a phone's multi-picture JPEG the
picture itself is read, of a TIFF what is marked as a preview or a mask is no page).

**Labels** are ids, which no conversion survives: one channel of 8 bits, lossless, without an orientation of their own.
Those of users' own folders may have 1 to 16 bits, or be colours: ``label_kind``, ``read_any_ids``, ``read_colours``.
"""

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fastpixcon.training import TrainingError
from fastpixcon.training.writing import irregular

Size = tuple[int, int]  # width, height
Pixels = NDArray[np.uint8]

_ORIENTATION = 274  # numbers of tags in TIFF and EXIF
_BITS, _PHOTOMETRIC, _CHANNELS, _PLANES, _SAMPLE_FORMAT, _KIND = 258, 262, 277, 284, 339, 254
_SEVERAL_IN_ONE = {"ICNS", "ICO", "MPO", "PSD"}  # sizes, previews or layers of one picture, not several pictures
_LABEL_FORMATS = {"BMP", "GIF", "PNG", "TIFF"}  # those that keep ids
_WANTED = "want grey, a palette, RGB or CMYK of 8 or 16 bits a channel"
_WORDS = {"F": "floating point", "I": "integers of 32 bits or with a sign", "LAB": "CIELAB"}
_ONE_CHANNEL = ("1", "L")
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_CONVERTED = ("1", "L", "P", "RGB", "CMYK", "YCbCr")
_TURNED = (5, 6, 7, 8)  # orientations that swap width and height


@dataclass(frozen=True)
class Header:
    size: Size  # as shown
    orientation: int  # EXIF's, 1 to 8; 1: stored as it is shown
    has_alpha: bool  # so it may be transparent, which only its pixels tell


def read_image(path: str) -> Pixels:
    """[H, W, 3] uint8, RGB, as it is shown.

    Raises:
        TrainingError: the file can't be read or has no such reading; names the file, and what is wrong or its mode.
    """
    with _opened(path) as file:
        _check_channels(path, file)
        deep = _sixteen_bits(path, file)
        factor = {"L;2": 85, "L;4": 17}.get(_rawmode(file))
        if factor and isinstance(file.info.get("transparency"), int):  # which Pillow scales without this colour
            file.info["transparency"] *= factor
        pixels = _rgb(path, file) if deep is None else _scaled(path, file, deep)
        # Pillow turns TIFF by itself as it loads.
        orientation = 1 if file.format == "TIFF" else _orientation(file)
    return np.ascontiguousarray(_upright(pixels, orientation))


def image_header(path: str, behind_pixels: bool = False) -> Header:
    """Size and orientation of an image whose mode ``read_image`` takes, without reading its pixels.

    ``behind_pixels``: look there, too, where a PNG may have its EXIF, at the price of reading them.
    """
    with _opened(path) as file:
        _check_channels(path, file)
        has_alpha = file.mode in _ALPHA or "transparency" in file.info
        width, height = file.size
        if file.format == "TIFF":  # some versions of Pillow have turned it by now
            width, height = file.tag_v2[256], file.tag_v2[257]  # type: ignore[attr-defined]
        if behind_pixels and file.format == "PNG":
            file.load()
        orientation = _orientation(file)
    return Header((height, width) if orientation in _TURNED else (width, height), orientation, has_alpha)


def read_ids(path: str) -> Pixels:
    """[H, W] uint8, as they are stored: values of a grey picture, indices of one with a palette.

    Raises:
        TrainingError: the file can't be read, or is no label.
    """
    with _opened(path) as file:
        _check_label(path, file)
        if file.format == "TIFF":  # which Pillow would turn as it loads
            _check_unturned(path, file)
        ids = np.array(file)
        _check_unturned(path, file)  # a PNG's orientation may come behind its pixels
        return ids


def label_size(path: str) -> Size:
    """Width and height from the header of a label, which is checked."""
    with _opened(path) as file:
        _check_label(path, file)
        _check_unturned(path, file)
        return file.size


def label_kind(path: str) -> str:
    """What a label is by its header, which is checked: "ids" of 1 to 16 bits, "palette" or "colours"."""
    with _opened(path) as file:
        _check_lossless(path, file)
        _check_unturned(path, file)
        if file.mode in _ONE_CHANNEL or file.mode.startswith("I;16") or _is_deep_grey(file):
            return "ids"
        if file.mode == "P":
            return "palette"
        if file.mode in ("RGB", "RGBA"):
            return "colours"
        raise TrainingError(f"{path}: got a {file.mode} picture, want one channel of class ids, a palette or RGB")


def any_label_size(path: str) -> Size:
    """Width and height from the header of a label of any kind, which is checked."""
    label_kind(path)
    with _opened(path) as file:
        return file.size


def read_any_ids(path: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """[H, W], as they are stored, of 1 to 16 bits: values of a grey picture, also of three equal channels, indices of
    one with a palette."""
    with _opened(path) as file:
        _check_lossless(path, file)
        if file.mode in ("RGB", "RGBA") and ";16" not in _rawmode(file):
            return _same_channels(path, _rgb(path, file))
        raw, deep = _rawmode(file), file.mode.startswith("I;16") or _is_deep_grey(file)
        if not deep and file.mode not in (*_ONE_CHANNEL, "P"):
            raise TrainingError(f"{path}: got a {file.mode} picture, want one channel of class ids of 8 or 16 bits")
        factor = {"L;2": 85, "L;4": 17}.get(raw, 1)  # by which Pillow scales them
        if 0 in _tag(file, _PHOTOMETRIC) or (";" in raw and file.mode in _ONE_CHANNEL and factor == 1):
            raise TrainingError(f"{path}: got grey of mode {raw}, want one channel of class ids of 8 or 16 bits")
        _check_channels(path, file)
        if file.format == "TIFF":  # which Pillow would turn as it loads
            _check_unturned(path, file)
        ids = np.array(file)
        _check_unturned(path, file)  # a PNG's orientation may come behind its pixels
        if deep:
            return ids.astype(np.uint16)
        return ids.astype(np.uint8) // np.uint8(factor)


def _same_channels(path: str, pixels: Pixels) -> Pixels:
    """[H, W, 3] -> [H, W]: ids that a program has saved three times."""
    if (pixels != pixels[:, :, :1]).any():
        raise TrainingError(f"{path}: got colours, want one channel of class ids of 8 or 16 bits")
    return np.ascontiguousarray(pixels[:, :, 0])


def read_colours(path: str) -> NDArray[np.uint32]:
    """[H, W], red + 256 green + 65536 blue of a label of colours, grey or with a palette."""
    with _opened(path) as file:
        _check_lossless(path, file)
        if file.mode not in ("1", "L", "P", "RGB", "RGBA") or ";16" in _rawmode(file):
            raise TrainingError(f"{path}: got a {file.mode} picture, want colours of 8 bits a channel")
        _check_channels(path, file)
        if file.format == "TIFF":
            _check_unturned(path, file)
        pixels = _rgb(path, file)  # [H, W, 3]
        _check_unturned(path, file)
    packed = np.zeros((*pixels.shape[:2], 4), dtype=np.uint8)
    packed[:, :, :3] = pixels
    return packed.view("<u4")[:, :, 0].astype(np.uint32, copy=False)


def palette_of(path: str) -> list[tuple[int, int, int]]:
    """RGB of each index of a picture with a palette; [] of others."""
    with _opened(path) as file:
        file.load()
        flat = (file.getpalette("RGB") if file.mode == "P" else None) or []
        return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat) - 2, 3)]


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Pillow warns of large pictures and of damaged metadata without the name of the file. Not for use in threads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    try:
        if kind := irregular(os.stat(path)):  # opening a pipe may wait for ever
            raise TrainingError(f"{path}: is {kind}, want a file")
        # Not by its name: what Pillow would map into memory, uncompressed TIFF, it turns wrongly.
        with open(path, "rb") as stream, Image.open(stream) as file:
            frames = _frames(file)
            if frames > 1:
                several = "pages" if file.format == "TIFF" else "frames"
                raise TrainingError(f"{path}: got a {file.format} file of several {several}, want a single picture")
            yield file
    except TrainingError:
        raise
    except Exception as error:  # Pillow lets through whatever a broken file sets off
        raise TrainingError(f"{path}: cannot be read: {' '.join(_why(error).split())[:200]}") from None


def _why(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no picture that Pillow knows"
    if isinstance(error, Image.DecompressionBombError):
        got, *limit = re.findall(r"\d+", str(error))
        return f"{got} pixels, want at most {limit[0] if limit else 'what Pillow takes'}; cut it into pieces"
    if isinstance(error, MemoryError):
        return "not enough memory for it"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, ValueError) and ("MAX_TEXT" in str(error)):
        return "a text in it is too long (metadata of more than 1 MiB); want it without"
    return f"it is damaged: {error or type(error).__name__}"


def _frames(file: Image.Image) -> int:
    """1, or more: how many is not counted."""
    count: int = getattr(file, "n_frames", 1)
    if count == 1 or file.format in _SEVERAL_IN_ONE:
        return 1
    if file.format != "TIFF":
        return count
    pages = 0
    for page in range(count):
        file.seek(page)
        previews_and_masks = 1 | 4
        pages += not file.tag_v2.get(_KIND, 0) & previews_and_masks  # type: ignore[attr-defined]
        if pages > 1:
            break
    file.seek(0)
    return max(pages, 1)


def _rawmode(file: Image.Image) -> str:
    """How Pillow reads the channels in the file: ``RGB;16B``; "" where it does not say so."""
    tiles = getattr(file, "tile", None)
    args = tiles[0][3] if tiles else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _tag(file: Image.Image, tag: int) -> tuple[int, ...]:
    """Values of a tag of a TIFF file; () where there is none."""
    value = file.tag_v2.get(tag, ()) if file.format == "TIFF" else ()  # type: ignore[attr-defined]
    return value if isinstance(value, tuple) else (value,)


def _check_channels(path: str, file: Image.Image) -> None:
    """Refuse modes without a reading as an image, and TIFF of which Pillow would leave out channels or signs."""
    mode = file.mode
    if mode not in _CONVERTED + _ALPHA and not mode.startswith("I;16") and not _is_deep_grey(file):
        words = f" ({_WORDS[mode]})" if mode in _WORDS else ""
        raise TrainingError(f"{path}: got a picture of mode {mode}{words}, {_WANTED}")
    channels = max(_tag(file, _CHANNELS), default=0)
    if channels > len(file.getbands()):
        raise TrainingError(f"{path}: got {channels} channels, of which mode {file.mode} leaves some out; {_WANTED}")
    if file.mode == "L" and 2 in _tag(file, _SAMPLE_FORMAT):
        raise TrainingError(f"{path}: got a picture of mode L whose values have a sign, {_WANTED}")
    # Of planes of 16 bits Pillow mixes up the bytes, or keeps the high ones.
    if 16 in _tag(file, _BITS) and _tag(file, _PLANES) == (2,) and channels > 1:
        raise TrainingError(f"{path}: got planes of 16 bits of mode {file.mode}, want the channels of a pixel together")


def _orientation(file: Image.Image) -> int:
    try:
        value = Image.Image.getexif(file).get(_ORIENTATION, 1)  # PNG's own would load the pixels
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """[H, W, C], stored -> as shown."""
    if orientation in _TURNED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _is_deep_grey(file: Image.Image) -> bool:
    """16 bits in a mode of 32; these formats have no more."""
    return file.mode == "I" and file.format in ("PNG", "PPM")


def _sixteen_bits(path: str, file: Image.Image) -> NDArray[np.uint16] | None:
    """[H, W, C] of 1, 2, 3 or 4 channels, where the file has 16 bits a channel; else None."""
    raw = _rawmode(file)
    if file.mode.startswith("I;16") or _is_deep_grey(file):
        return np.array(file).astype(np.uint16)[:, :, None]
    if raw == "LA;16B":  # has as many bits as RGBA of 8: [H, W, high and low byte of grey, of alpha]
        _read_as(file, "RGBA")
        bytes_ = np.array(file)
        return _joined(bytes_[:, :, 0::2], bytes_[:, :, 1::2])
    colour = re.fullmatch(r"(RGBA?);16([BLN])", raw)
    if not colour:
        return None
    # Pillow has no such mode and keeps the high bytes; with the other byte order it keeps the low ones.
    high = np.array(file)
    swapped = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[colour[2]]
    with open(path, "rb") as stream, Image.open(stream) as again:
        _read_as(again, f"{colour[1]};16{swapped}")
        return _joined(high, np.array(again))


def _joined(high: Pixels, low: Pixels) -> NDArray[np.uint16]:
    joined: NDArray[np.uint16] = high.astype(np.uint16) * np.uint16(256) + low
    return joined


def _read_as(file: Image.Image, rawmode: str) -> None:
    tiles = []
    for codec, box, offset, args in file.tile:  # type: ignore[attr-defined]
        tiles.append((codec, box, offset, (rawmode, *args[1:]) if isinstance(args, tuple) else rawmode))
    kind = getattr(sys.modules["PIL.ImageFile"], "_Tile", None)  # a named tuple in newer versions
    file.tile = [kind(*tile) for tile in tiles] if kind else tiles  # type: ignore[attr-defined]


def _scaled(path: str, file: Image.Image, deep: NDArray[np.uint16]) -> Pixels:
    """[H, W, C] of 16 bits -> [H, W, 3] of 8."""
    top = 4095 if _tag(file, _BITS) == (12,) else 65535
    colours = 1 if deep.shape[2] < 3 else 3
    key = file.info.get("transparency")
    transparent = deep.shape[2] > colours and bool((deep[:, :, -1] < top).any())
    if transparent or (key is not None and bool((deep == np.array(key)).all(2).any())):
        raise _transparent(path, file)
    deep = deep[:, :, :colours]
    if deep.shape[2] == 1 and _tag(file, _PHOTOMETRIC) == (0,):  # white is zero; Pillow inverts 8 bits only
        deep = top - deep
    scaled = ((deep.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)
    return np.broadcast_to(scaled, (*scaled.shape[:2], 3))


def _rgb(path: str, file: Image.Image) -> Pixels:
    """[H, W, 3] of a file of at most 8 bits a channel."""
    file.load()  # with the pixels comes the palette of some formats
    key = file.info.get("transparency")
    palette_has_alpha = file.mode == "P" and file.palette is not None and file.palette.mode != "RGB"
    if file.mode in _ALPHA or palette_has_alpha or (file.mode == "P" and key is not None):
        rgba = np.array((file.convert("LA") if file.mode == "La" else file).convert("RGBA"))
        if (rgba[:, :, 3] < 255).any():
            raise _transparent(path, file)
        return rgba[:, :, :3]
    pixels = np.array(file if file.mode == "RGB" else file.convert("RGB"))
    if key is not None and bool((pixels == np.array(key)).all(2).any()):
        raise _transparent(path, file)
    return pixels


def _transparent(path: str, file: Image.Image) -> TrainingError:
    return TrainingError(f"{path}: got a picture of mode {file.mode} with transparent pixels, want none of them")


def _check_label(path: str, file: Image.Image) -> None:
    if file.mode not in ("L", "P"):
        raise TrainingError(f"{path}: got a {file.mode} picture, want one channel of class ids of 8 bits")
    _check_lossless(path, file)
    if ";" in _rawmode(file) and file.mode == "L":  # of 2 or 4 bits, or white is zero: Pillow would scale the ids
        raise TrainingError(f"{path}: got grey of mode {_rawmode(file)}, want one channel of class ids of 8 bits")
    _check_channels(path, file)


def _check_lossless(path: str, file: Image.Image) -> None:
    lossy = "jpeg" in str(file.info.get("compression", ""))
    if file.format not in _LABEL_FORMATS or lossy:
        kind = f"{file.format} file{' with JPEG in it' if lossy else ''}"
        raise TrainingError(f"{path}: got a {kind}, want class ids in a PNG file, which keeps them as they are")


def _check_unturned(path: str, file: Image.Image) -> None:
    orientation = _orientation(file)
    if orientation != 1:
        raise TrainingError(
            f"{path}: got a label with an EXIF orientation ({orientation}), want its pixels in the order in which its "
            "image is shown, and no orientation"
        )
