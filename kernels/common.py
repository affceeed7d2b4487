"""What the Triton kernels share: how they are launched, the hash, dot products, functions."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import libdevice

INTERPRETING = os.environ.get("TRITON_INTERPRET", "0") == "1"
INTERPRETED = tl.constexpr(INTERPRETING)
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
TEMPERATURE_MIN, TEMPERATURE_MAX = tl.constexpr(2.0**-126), tl.constexpr((2 - 2.0**-23) * 2.0**127)
MIN_NORM = tl.constexpr(1e-12)  # below it a row has no direction: it is zero and gets no gradient
SEGMENT_STREAM = tl.constexpr(0x5E6D)  # draws of whole segments use another stream than draws of pixels
MEMORY_STREAM = tl.constexpr(0x3E3D)  # draws of pixels for the memory bank

_VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])
LEAST_ROWS = tl.constexpr(8 if _VERSION >= (3, 8) else 16)  # that a product of float32 is summed over

# Triton leaves tl.device_assert out of a kernel that is not launched with these; torch.compile never does.
ASSERTIONS: dict[str, Any] = {} if INTERPRETING else {"debug": True, "sanitize_overflow": False}

Grid = tuple[int, ...]


def _triton(kernel: Any, grid: Grid, arguments: Sequence[Any], options: dict[str, Any]) -> None:
    """Starts the kernel on the device of its tensors; where torch.compile traces, puts it into the graph."""
    traced = torch.library.wrap_triton(kernel)
    if traced is not kernel:
        traced[grid](*arguments, **{k: v for k, v in options.items() if k not in ASSERTIONS})
        return
    with torch.cuda.device_of(next(x for x in arguments if isinstance(x, Tensor))):
        kernel[grid](*arguments, **options)


# Every launch goes through it: tests count launches here, and run compiled kernels without a GPU.
launcher: Callable[[Any, Grid, Sequence[Any], dict[str, Any]], None] = _triton


def launch(kernel: Any, grid: Grid, *arguments: Any, **options: Any) -> None:
    """``kernel[grid](*arguments, **options)``; options are constexprs, num_warps and num_stages. What an argument
    would be for that is None is compiled out."""
    if 0 not in grid:
        launcher(kernel, grid, arguments, options)


def how(*words: str, **where: bool) -> str:
    """What a kernel is compiled for, HOW: these words, and those of which it is true."""
    return " ".join([*words, *(word for word, true in where.items() if true)])


def precision(dtype: torch.dtype, fixed: bool) -> str:
    """The word for products of rows, which are prepared for it. With a fixed shift, which only unit rows have, float32
    becomes float16 where PyTorch allows TF32, which has as many bits, else two halves of 22 bits in three products,
    ``info_nce_halves.py``; without one it is plain, for a logit must come out the same as a row's and as a column's."""
    if dtype != torch.float32:
        return "ieee"
    if torch.backends.cuda.matmul.allow_tf32:
        return "fp16x1" if fixed else "tf32"
    return "fp16x3" if fixed else "ieee"


def cdiv(a: int, b: int) -> int:
    return (a + b - 1) // b


def round_up(a: int, b: int) -> int:
    return cdiv(a, b) * b


def power_of_two(n: int, least: int = 16) -> int:
    """The smallest power of two that is no less than n and ``least``."""
    return max(least, 1 << (int(n) - 1).bit_length())


def architecture(x: Tensor) -> int:
    """Of the device of x, 10 * major + minor; where kernels run on the CPU, 80."""
    if x.device.type != "cuda" or not torch.cuda.is_available():
        return 80
    major, minor = torch.cuda.get_device_capability(x.device)
    return 10 * major + minor


def multiprocessors(x: Tensor) -> int:
    """Of the device of x; where kernels run on the CPU, so many that the work of tests is split."""
    if x.device.type != "cuda" or not torch.cuda.is_available():
        return 8
    return int(torch.cuda.get_device_properties(x.device).multi_processor_count)


@triton.constexpr_function
def has(HOW, word):
    """Whether a kernel is compiled for this. HOW is words, as ``how`` puts them together."""
    return word in HOW.split()


@triton.constexpr_function
def precision_of(HOW):
    return "tf32" if "tf32" in HOW.split() else "ieee"


@triton.constexpr_function
def size(TILE, name):
    """One of the sizes in TILE, a ``launch_table.Tile`` as a plain tuple, which torch.compile can write down."""
    return TILE[{"BLOCK_M": 0, "BLOCK_N": 1, "MASKED_N": 2, "BLOCK_D": 3, "BLOCK_K": 4, "STAGES": 5}[name]]


@triton.jit
def is_temperature(x):
    """Beyond, it or its reciprocal is no finite float32."""
    return (x >= TEMPERATURE_MIN) & (x <= TEMPERATURE_MAX)


@triton.jit
def mix32(x):
    """Bijective mixing of 32-bit words (Wellons' lowbias32)."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def hash32(seed, counter, stream: tl.constexpr):
    """The one counter-based hash, as in ``reference/select_anchors.py``: uint32 keys of int64 counters."""
    key = mix32(seed.to(tl.uint32) ^ stream)
    key = mix32((seed >> 32).to(tl.uint32) ^ key)
    key = mix32((counter >> 32).to(tl.uint32) ^ key)
    return mix32(counter.to(tl.uint32) ^ key)


@triton.jit
def dot(a, b, sum, HOW: tl.constexpr):
    """sum + a b in float32. The interpreter would multiply the bits of bfloat16, and add up in an order that depends on
    the shape of the tile; in float64 a logit comes out the same in every tile, as it does on a GPU."""
    if INTERPRETED:
        return sum + tl.dot(a.to(tl.float64), b.to(tl.float64), out_dtype=tl.float64).to(tl.float32)
    else:
        return tl.dot(a, b, sum, input_precision=precision_of(HOW))


@triton.jit
def rounded_product(a, b):
    """a b in float32, rounded: in no kernel is it fused with what it is added to, so it is the same in all."""
    if INTERPRETED:
        return a * b
    else:
        return libdevice.mul_rn(a, b)


@triton.jit
def cast(x, dtype: tl.constexpr):
    """float32 to dtype, to the nearest; the interpreter would cut bfloat16 off."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        x = bits.to(tl.float32, bitcast=True)
    return x.to(dtype)


@triton.jit
def normalize(x):
    """Unit rows of x [BLOCK, BLOCK_D] and 1 / |x| [BLOCK], float32; neither huge nor tiny rows overflow or vanish."""
    largest = tl.max(tl.abs(x), axis=1)  # [BLOCK]
    unit = tl.where(largest == 0, 0.0, 1.0 / tl.where(largest == 0, 1.0, largest))
    scaled = x * unit[:, None]
    norm = tl.sqrt(tl.sum(scaled * scaled, axis=1))
    small = largest * norm < MIN_NORM
    direction = tl.where(small, 0.0, 1.0 / tl.where(small, 1.0, norm))
    inv_norm = tl.where(small, 0.0, unit * direction)
    return scaled * direction[:, None], inv_norm


@triton.jit
def log1p_unit(t):
    """log(1 + t) for 0 <= t <= 1, relative error below 2e-7: t times a polynomial, exact at 0."""
    p = -0.0032440233
    p = p * t + 0.0198514536
    p = p * t - 0.0569595173
    p = p * t + 0.106036536
    p = p * t - 0.153055921
    p = p * t + 0.196759388
    p = p * t - 0.249541342
    p = p * t + 0.333299637
    p = p * t - 0.499999017
    p = p * t + 1.0
    return p * t


@triton.jit
def softplus_sigmoid(margin):
    """log(1 + e^margin) and 1 / (1 + e^-margin)."""
    t = tl.exp2(-tl.abs(margin) * LOG2_E)
    sigmoid = tl.where(margin >= 0, 1.0, t) / (1.0 + t)
    return tl.maximum(margin, 0.0) + log1p_unit(t), sigmoid
