"""One matrix of a MATLAB file of versions 5 to 7.2, as COCO-Stuff's labels are.

scipy's reader is not used: a damaged file makes it read outside its memory, which ends the process without a word.
Format: "MAT-File Format" of The MathWorks, "Level 5 MAT-Files".
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np

_MATRIX, _COMPRESSED = 14, 15  # types of elements
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # as stored
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}  # of arrays
_COMPLEX = 8  # bit of the flags
_HEAD = 512  # bytes of a matrix that have its class, shape and name
_LARGEST = 2**28  # numbers


class MatlabError(Exception):
    """Why there is no such matrix to be had from a file."""


@dataclass(frozen=True)
class Matrix:
    """Of a file's matrix what stands before its numbers."""

    shape: tuple[int, int]
    dtype: np.dtype[np.generic]
    order: str  # "<" or ">"
    content: bytes  # of its element, compressed or not
    is_compressed: bool
    begin: int  # of its numbers in the element

    def values(self) -> np.ndarray:
        """[H, W], as its class has them.

        Raises:
            MatlabError: they are not there.
        """
        count = self.shape[0] * self.shape[1]
        largest = self.begin + 8 * count + 16
        content = _inflated(self.content, largest, whole=True) if self.is_compressed else self.content
        kind, numbers, _ = _element(content, self.begin, self.order)
        stored = np.dtype(self.order + _NUMBERS[kind]) if kind in _NUMBERS else None
        if stored is None or len(numbers) != count * stored.itemsize:
            raise MatlabError(f"it is damaged: {len(numbers)} bytes for {self.shape[0]}x{self.shape[1]} numbers")
        return np.frombuffer(numbers, stored).reshape(self.shape, order="F").astype(self.dtype)


def open_matrix(content: bytes, name: str) -> Matrix:
    """The matrix ``name`` of a file's content.

    Raises:
        MatlabError: this is no such file, or it has no matrix of that name, of two dimensions and of real numbers.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if content.startswith(b"MATLAB 7.3"):
        raise MatlabError("got MATLAB 7.3, want version 5 to 7.2")
    if order is None or struct.unpack(f"{order}H", content[124:126])[0] != 0x0100:
        raise MatlabError("no MATLAB file of version 5 to 7.2")
    place, others = 128, []
    while place < len(content):
        kind, element, place = _element(content, place, order, is_top=True)
        is_compressed = kind == _COMPRESSED
        if is_compressed:
            kind, body, _ = _element(_inflated(element, _HEAD), 0, order, may_be_cut=True)
        else:
            body = element
        if kind != _MATRIX:
            continue
        found = _head(body, order)
        if found.name != name:
            others.append(found.name)
            continue
        if len(found.shape) != 2 or min(found.shape) < 1 or found.shape[0] * found.shape[1] > _LARGEST:
            raise MatlabError(f"has {{{name!r}: {found.shape}}}")
        if found.kind not in _CLASSES or found.flags & _COMPLEX:
            raise MatlabError(f"got an array {name} of class {found.kind}, which has no real numbers")
        height, width = found.shape
        begin = found.begin + (8 if is_compressed else 0)  # the tag of the matrix is in what is compressed
        dtype = np.dtype(_CLASSES[found.kind])
        return Matrix((height, width), dtype, order, element, is_compressed, begin)
    raise MatlabError(f"has no {name}, but {others}")


@dataclass(frozen=True)
class _Head:
    kind: int  # class of the array
    flags: int
    shape: tuple[int, ...]
    name: str
    begin: int  # of the numbers


def _head(body: bytes, order: str) -> _Head:
    _, flags, place = _element(body, 0, order)
    _, shape, place = _element(body, place, order)
    _, name, place = _element(body, place, order)
    if len(flags) != 8 or len(shape) % 4:
        raise MatlabError("it is damaged")
    (word,) = struct.unpack(f"{order}I", flags[:4])
    sizes = struct.unpack(f"{order}{len(shape) // 4}i", shape)
    return _Head(word & 255, word >> 8 & 255, sizes, name.decode("ascii", "replace"), place)


def _element(
    content: bytes, place: int, order: str, is_top: bool = False, may_be_cut: bool = False
) -> tuple[int, bytes, int]:
    """Type and content of the element at ``place``, and where the next one begins."""
    tag = content[place : place + 8]
    if len(tag) < 8:
        raise MatlabError("it is damaged: it ends too early")
    kind, size = struct.unpack(f"{order}II", tag)
    if kind >> 16:  # at most four bytes, in the tag itself
        kind, size = kind & 0xFFFF, kind >> 16
        if size > 4 or is_top:
            raise MatlabError("it is damaged")
        return kind, tag[4 : 4 + size], place + 8
    begin = place + 8
    if begin + size > len(content) and not may_be_cut:
        raise MatlabError("it is damaged: it ends too early")
    padding = 0 if kind == _COMPRESSED else -size % 8
    return kind, content[begin : begin + size], begin + size + padding


def _inflated(content: bytes, size: int, whole: bool = False) -> bytes:
    """At most the first ``size`` bytes of what is compressed; ``whole``: there are no more, and their sum is right."""
    stream = zlib.decompressobj()
    try:
        inflated = stream.decompress(content, size)
    except zlib.error as error:
        raise MatlabError(f"it is damaged: {error}") from None
    if whole and not stream.eof:
        raise MatlabError("it is damaged: it ends too early, or goes on")
    return inflated
