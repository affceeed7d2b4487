"""The elements of a box that TMA copies, in global memory and in shared memory."""

from typing import NamedTuple

import numpy as np

from ..errors import MisalignedError, TensorMapError
from ..numerics import f32_to_tf32
from ..tensor_map import TensorMap
from ..types import F32, S64
from .matrices import CHUNK, swizzled

NAN = {2: 0x7FFF, 4: 0x7FFFFFFF, 8: 0x7FFFFFFFFFFFFFFF}
PATTERN = 128  # bytes at which a box starts; the swizzle repeats after 8 widths


class Box(NamedTuple):
    """Its elements one after the other, the innermost dimension first."""

    addresses: np.ndarray  # in global memory, of those inside the tensor
    inside: np.ndarray  # which are
    map: TensorMap

    @staticmethod
    def at(tensor: TensorMap, coordinates: list[int]) -> "Box":
        if len(coordinates) != tensor.rank:
            raise TensorMapError(f"{len(coordinates)} coordinates for a tensor map of {tensor.rank} dimensions")
        offsets, inside = np.zeros(1, S64), np.ones(1, bool)
        sizes = zip(coordinates, tensor.box, tensor.sizes, (tensor.element, *tensor.strides), strict=True)
        for start, count, size, stride in sizes:
            index = np.arange(start, start + count)
            offsets = (index[:, None] * stride + offsets).reshape(-1)
            inside = (((index >= 0) & (index < size))[:, None] & inside).reshape(-1)
        return Box(tensor.address + offsets[inside], inside, tensor)

    def filled(self, values: np.ndarray) -> np.ndarray:
        """[chunks of 16 bytes, words] of what lies inside, and of zeros or NaN."""
        size = self.map.element
        elements = np.zeros(len(self.inside), f"u{size}")
        if self.map.fills_nan:
            elements[:] = NAN[size]
        if self.map.type.startswith("tf32"):
            values = f32_to_tf32(np.ascontiguousarray(values).view(F32), False)
        elements[self.inside] = values
        return elements.view(np.uint64).reshape(-1, 2)

    def elements(self, rows: np.ndarray) -> np.ndarray:
        """Those inside, of such chunks."""
        return np.ascontiguousarray(rows).view(f"u{self.map.element}").reshape(-1)[self.inside]

    def chunks(self, start: int) -> np.ndarray:
        """Addresses in shared memory of all 16 bytes of a box there."""
        if start % PATTERN:
            raise MisalignedError(f"a box of a tensor in shared memory at {start:#x}, which {PATTERN} doesn't divide")
        linear = start + np.arange(0, self.map.box_bytes, CHUNK)
        return swizzled(linear, self.map.swizzle) if self.map.swizzle else linear
