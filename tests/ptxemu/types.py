"""The types of PTX: their sizes, and the numpy types that compute them."""

from collections.abc import Callable
from typing import Any

import numpy as np

U8, U16, U32, U64 = np.uint8, np.uint16, np.uint32, np.uint64
S8, S16, S32, S64 = np.int8, np.int16, np.int32, np.int64
F16, F32, F64 = np.float16, np.float32, np.float64

# Of one of 8, 16, 32 or 64 bits: the type that holds it in a register.
RAW: dict[int, Any] = {8: U8, 16: U16, 32: U32, 64: U64}

NUMPY: dict[str, Any] = {f"{kind}{bits}": RAW[bits] for kind in "bu" for bits in RAW}
NUMPY |= {"s8": S8, "s16": S16, "s32": S32, "s64": S64, "f32": F32, "f64": F64, "tf32": F32}

BITS = {"pred": 1, "b128": 128}
BITS |= {f"{kind}{bits}": bits for kind in "bus" for bits in RAW}
BITS |= {"f16": 16, "bf16": 16, "f32": 32, "tf32": 32, "f64": 64}
BITS |= dict.fromkeys(("f16x2", "bf16x2", "u16x2", "s16x2"), 32)

FLOATS = {"f16", "bf16", "f32", "f64", "f16x2", "bf16x2"}
HALVES = {"f16", "bf16", "f16x2", "bf16x2"}  # computed in float32
SIGNED = {"s8", "s16", "s32", "s64"}

# The threads of the batch that execute an instruction, as booleans; None for all that live.
Mask = np.ndarray | None
# The same as indices of the threads.
Active = np.ndarray | None
# What an instruction does.
Step = Callable[[Mask], None]
Getter = Callable[[], np.ndarray]
