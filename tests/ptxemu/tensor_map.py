"""What a kernel of TMA gets in place of a CUtensorMap, which is the driver's secret: 128 bytes with the same fields, in
an order of our own (FORMAT), which host code under test may write itself and pass as a Struct. As the arguments of
cuTensorMapEncodeTiled, the sizes come innermost first."""

import struct
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .errors import TensorMapError
from .memory.globals import Struct

# Of CUtensorMapDataType, in its order; with the bytes of an element.
TYPES = {"u8": 1, "u16": 2, "u32": 4, "s32": 4, "u64": 8, "s64": 8, "f16": 2, "f32": 4, "f64": 8, "bf16": 2}
TYPES |= {"f32.ftz": 4, "tf32": 4, "tf32.ftz": 4}
# The same as instructions number them (PTX ISA, "tensormap.replace").
ON_DEVICE = ("u8", "u16", "u32", "s32", "u64", "s64", "f16", "f32", "f32.ftz", "f64", "bf16", "tf32", "tf32.ftz")
SWIZZLES = (0, 32, 64, 128)  # bytes, by CUtensorMapSwizzle
SIZE, MAGIC = 128, 0x50414D54
FORMAT = "<QI4B5I4Q5I5B"
OFFSETS = {"global_address": 0, "rank": 12, "elemtype": 13, "swizzle_mode": 14, "fill_mode": 15}
OFFSETS |= {"global_dim": 16, "global_stride": 36, "box_dim": 68, "element_stride": 88}


def type_of(array: Any) -> str:
    name = str(array.dtype).removeprefix("torch.")
    names = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64", "uint8": "u8", "int8": "u8"}
    names |= {"int16": "u16", "uint16": "u16", "int32": "s32", "uint32": "u32", "int64": "s64", "uint64": "u64"}
    return names[name]


def five(numbers: tuple[int, ...], rest: int) -> list[int]:
    return [*numbers, *[rest] * (5 - len(numbers))]


@dataclass(frozen=True)
class TensorMap:
    """As a kernel argument, by value (``__grid_constant__ const CUtensorMap``) or, for a pointer, in global memory."""

    base: Any  # array that it is a map of; None: address
    type: str
    sizes: tuple[int, ...]
    strides: tuple[int, ...]  # bytes, of all dimensions but the innermost
    box: tuple[int, ...]
    swizzle: int = 0  # bytes
    fills_nan: bool = False  # outside, instead of zero
    element_strides: tuple[int, ...] = ()
    address: int = 0

    swizzles: ClassVar = SWIZZLES

    @staticmethod
    def of(array: Any, box: tuple[int, ...], swizzle: int = 0, **others: Any) -> "TensorMap":
        """Of an array or tensor; ``box`` as its shape, outermost first."""
        is_numpy = isinstance(array, np.ndarray)
        size = array.itemsize if is_numpy else array.element_size()
        strides = [x // size for x in array.strides] if is_numpy else array.stride()
        if strides[-1] != 1:
            raise TensorMapError("the innermost dimension of a tensor map must be contiguous")
        sizes = tuple(int(n) for n in array.shape[::-1])
        bytes_apart = tuple(int(n) * size for n in strides[:-1][::-1])
        made = TensorMap(array, others.pop("type", type_of(array)), sizes, bytes_apart, box[::-1], swizzle, **others)
        made.check()
        return made

    @property
    def rank(self) -> int:
        return len(self.sizes)

    @property
    def element(self) -> int:
        """Bytes"""
        return TYPES[self.type]

    @property
    def box_bytes(self) -> int:
        return int(np.prod(self.box)) * self.element

    def check(self) -> None:
        """What cuTensorMapEncodeTiled refuses."""
        line = self.box[0] * self.element
        steps = self.element_strides or (1,) * self.rank
        for wrong, what in (
            (not 1 <= self.rank <= 5, f"{self.rank} dimensions"),
            (self.address % 16, f"address {self.address:#x}, which 16 doesn't divide"),
            (any(n % 16 for n in self.strides), f"strides of {self.strides} bytes, which 16 doesn't divide"),
            (not all(1 <= n <= 256 for n in self.box), f"a box of {self.box}: 1 .. 256 are possible"),
            (line % 16, f"a box whose lines have {line} bytes, which 16 doesn't divide"),
            (self.swizzle and line > self.swizzle, f"lines of {line} bytes in a box with a swizzle of {self.swizzle}"),
            (any(n != 1 for n in steps), f"element strides of {steps}, which the emulator has not"),
        ):
            if wrong:
                raise TensorMapError(f"a tensor map with {what}")

    def encoded(self) -> Struct:
        head = (MAGIC, self.rank, list(TYPES).index(self.type), SWIZZLES.index(self.swizzle), int(self.fills_nan))
        strides = [*self.strides, *[0] * (5 - self.rank)][:4]
        numbers = [*five(self.sizes, 1), *strides, *five(self.box, 1), *five(self.element_strides, 1)]
        data = struct.pack(FORMAT, self.address, *head, *numbers)
        return Struct(data.ljust(SIZE, b"\0"), {} if self.base is None else {0: self.base})

    @staticmethod
    def decoded(data: bytes) -> "TensorMap":
        address, magic, rank, type_, swizzle, fill, *numbers = struct.unpack(FORMAT, data[: struct.calcsize(FORMAT)])
        if magic != MAGIC or not 1 <= rank <= 5:
            raise TensorMapError("what the address of a tensor map points to is none")
        sizes, strides, box, steps = (tuple(x) for x in (numbers[:5], numbers[5:9], numbers[9:14], numbers[14:]))
        kind, width = list(TYPES)[type_], SWIZZLES[swizzle]
        return TensorMap(
            None, kind, sizes[:rank], strides[: rank - 1], box[:rank], width, bool(fill), steps[:rank], address
        )
