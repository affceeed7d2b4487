"""Where the elements of a matrix lie that a descriptor of wgmma points to.

PTX ISA, "Matrix-descriptor" and "Strides" of wgmma: of chunks of 16 bytes, eight rows (of K-major matrices) or eight
columns (of others) are a core matrix, as wide as the swizzle; the two byte offsets lie between core matrices.
"""

from typing import NamedTuple

import numpy as np

from ..errors import UnsupportedError
from ..types import S64

CHUNK = 16  # bytes
WIDTHS = {0: 16, 1: 128, 2: 64, 3: 32}  # of the swizzle, bytes, by the two highest bits


def swizzled(addresses: np.ndarray, width: int) -> np.ndarray:
    """The number of a chunk in its line of ``width`` bytes changes with that of its 128 bytes. TMA does the same."""
    return addresses ^ (((addresses >> 7) & (width // CHUNK - 1)) << 4)


class Descriptor(NamedTuple):
    start: np.ndarray  # [matrices], bytes, and so the others
    leading: int
    stride: int
    width: int

    @staticmethod
    def of(words: np.ndarray) -> "Descriptor":
        """Of matrices that differ only in where they start."""
        words = words.astype(np.uint64)
        start = ((words & np.uint64(0x3FFF)) << np.uint64(4)).astype(S64)
        rest = words >> np.uint64(16)
        first = int(rest[0])
        if (rest != rest[0]).any():
            raise UnsupportedError("descriptors of one wgmma with different layouts")
        if (first >> 33) & 7:
            raise UnsupportedError("a matrix descriptor with a base offset")
        return Descriptor(start, (first & 0x3FFF) << 4, ((first >> 16) & 0x3FFF) << 4, WIDTHS[first >> 46])

    def chunks(self, rows: np.ndarray, K: int, size: int, transposed: bool) -> np.ndarray:
        """Addresses: [matrices, rows, K-chunks] of K-major ones; [matrices, row-chunks, K] of those whose rows lie
        side by side. ``rows``: which of M or N; ``size`` of elements, bytes."""
        per_chunk, lines = CHUNK // size, self.width // CHUNK
        if not transposed:
            r, c = rows[:, None], np.arange(K // per_chunk)
            step = self.leading if lines == 1 else CHUNK
            offsets = r % 8 * self.width + r // 8 * self.stride + c * step
        else:
            c, k = rows[::per_chunk, None] // per_chunk, np.arange(K)
            if lines == 1:
                offsets = c * self.stride + k % 8 * CHUNK + k // 8 * self.leading
            else:
                offsets = c % lines * CHUNK + c // lines * self.leading + k % 8 * self.width + k // 8 * self.stride
        return swizzled(self.start[:, None, None] + offsets, self.width)
