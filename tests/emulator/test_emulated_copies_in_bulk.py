"""mbarriers, and copies in bulk that they count: of bytes and of boxes of tensors."""

from collections.abc import Callable

import numpy as np
import ptxemu
import pytest
from ptxemu import TensorMap

Cuda = Callable[..., ptxemu.Result]
F32, U32 = np.float32, np.uint32


def ran(result: ptxemu.Result) -> None:
    assert result.warnings == []


# mbarriers


def test_rounds_by_parity(hopper: Cuda, rng: np.random.Generator) -> None:
    x, y = rng.random((5, 32), F32), np.zeros((5, 32), F32)
    ran(hopper("hopper.cu", "ping_pong", 1, 64, [x, y, 5]))
    np.testing.assert_array_equal(y, 2 * x[:, ::-1])


def test_waits_by_state(hopper: Cuda) -> None:
    pending, y = np.zeros(64, U32), np.zeros(64, F32)
    ran(hopper("hopper.cu", "by_state", 1, 64, [pending, y]))
    assert sorted(pending) == list(range(1, 65))
    np.testing.assert_array_equal(y, np.arange(64)[::-1])


def test_who_drops_out_is_not_waited_for(hopper: Cuda) -> None:
    y = np.zeros(32, F32)
    ran(hopper("hopper.cu", "dropping", 1, 64, [y]))
    np.testing.assert_array_equal(y, np.arange(32, 64))


def test_counts_of_arrivals_and_bytes(hopper: Cuda) -> None:
    y = np.zeros(64, F32)
    ran(hopper("hopper.cu", "counts", 1, 64, [y]))
    np.testing.assert_array_equal(y, 3 * np.tile(np.arange(32), 2))


def test_copies_of_a_thread_arrive(hopper: Cuda, rng: np.random.Generator) -> None:
    x, y = rng.random(64, F32), np.zeros(64, F32)
    ran(hopper("hopper.cu", "copies_arrive", 1, 64, [x, y]))
    np.testing.assert_array_equal(y, x[::-1])


# Bytes


def test_there_and_back(hopper: Cuda, rng: np.random.Generator) -> None:
    x, y = rng.random(1000, F32), np.zeros(1001, F32)
    result = hopper("hopper.cu", "there_and_back", 1, 64, [x, y, 1000], dynamic_smem=4096, profile=True)
    ran(result)
    np.testing.assert_array_equal(y, np.append(x + 1, 0))
    assert result.traffic["arg0", "read"].bytes == result.traffic["arg1", "write"].bytes == 4000


def test_reductions(hopper: Cuda, rng: np.random.Generator) -> None:
    x, y = rng.random((2, 64), F32)
    u, v = rng.integers(0, 2**32, (2, 64), U32)
    sums, most = x + y, np.maximum(u, v)
    ran(hopper("hopper.cu", "adds", 1, 64, [x, y, u, v]))
    np.testing.assert_array_equal(y, sums)
    np.testing.assert_array_equal(v, most)


# Boxes


def box_of(x: np.ndarray, start: tuple[int, ...], shape: tuple[int, ...], fill: float = 0) -> np.ndarray:
    """By numpy: the tensor among what fills it up."""
    margin = max(*shape, *(abs(n) for n in start), 1) + max(x.shape)
    padded = np.pad(x, margin, constant_values=fill)
    return padded[tuple(slice(margin + a, margin + a + n) for a, n in zip(start, shape, strict=True))]


def swizzled(box: np.ndarray, width: int) -> np.ndarray:
    """As it lies in shared memory: chunks of 16 bytes change places by the number of their line of 128."""
    chunks = np.ascontiguousarray(box).view(np.uint8).reshape(-1, 16)
    place = np.arange(len(chunks))
    moved = np.empty_like(chunks)
    moved[place ^ (place // 8 & width // 16 - 1) if width else place] = chunks
    return moved


@pytest.mark.parametrize("width", [0, 32, 64, 128])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint8, np.int64])
@pytest.mark.parametrize("start", [(0, 0), (3, 16), (-2, -16), (35, 60), (90, 8), (-40, 0)])
def test_a_box(width: int, dtype: type, start: tuple[int, int], hopper: Cuda, rng: np.random.Generator) -> None:
    size = np.dtype(dtype).itemsize
    shape = (16, (width or 48) // size)
    x = rng.integers(1, 100, (37, 64)).astype(dtype)
    out = np.zeros((shape[0] * shape[1] * size // 16, 16), np.uint8)
    tensor = TensorMap.of(x, shape, width)
    ran(hopper("hopper.cu", "box", 1, 64, [tensor, out, start[1], start[0], out.nbytes], dynamic_smem=out.nbytes))
    np.testing.assert_array_equal(out, swizzled(box_of(x, start, shape), width))


def test_a_map_in_global_memory_of_a_tensor_with_strides(hopper: Cuda, rng: np.random.Generator) -> None:
    x = rng.random((40, 96), F32)[::2, 16:80]
    out = np.zeros((8, 32), F32)
    tensor = TensorMap.of(x, (8, 32))
    ran(hopper("hopper.cu", "box_in_memory", 1, 64, [tensor, out, 40, 15, 1024], dynamic_smem=1024))
    np.testing.assert_array_equal(out, box_of(x, (15, 40), (8, 32)))


def test_nan_outside(hopper: Cuda, rng: np.random.Generator) -> None:
    x, out = rng.random((10, 32), F32), np.zeros((8, 32), F32)
    tensor = TensorMap.of(x, (8, 32), fills_nan=True)
    ran(hopper("hopper.cu", "box", 1, 64, [tensor, out, 16, 6, 1024], dynamic_smem=1024))
    np.testing.assert_array_equal(out, box_of(x, (6, 16), (8, 32), np.nan))


@pytest.mark.parametrize("rank", [1, 3, 4, 5])
def test_boxes_of_other_ranks(rank: int, hopper: Cuda, rng: np.random.Generator) -> None:
    sizes, shape, start = (3, 4, 5, 6, 8)[-rank:], (2, 3, 2, 4, 4)[-rank:], (1, -1, 4, 3, 2)[-rank:]
    x = rng.random(sizes, F32)
    out = np.zeros(shape, F32)
    numbers = [*start[::-1], 0, 0, 0, 0][:5]
    arguments = [TensorMap.of(x, shape), out, *numbers, out.nbytes]
    ran(hopper("hopper.cu", f"box{rank}", 1, 64, arguments, dynamic_smem=1024))
    np.testing.assert_array_equal(out, box_of(x, start, shape))


@pytest.mark.parametrize("width", [0, 64])
def test_a_box_goes_back(width: int, hopper: Cuda, rng: np.random.Generator) -> None:
    box = rng.random((8, 16), F32)
    for start in ((0, 0), (-3, 8), (9, 30)):
        for kernel in ("box_out", "box_added"):
            x = rng.random((12, 36), F32)
            wanted = np.zeros((60, 100), F32)
            wanted[20:32, 20:56] = x
            part = wanted[20 + start[0] :][:8, 20 + start[1] :][:, :16]
            part[:] = part + box if kernel == "box_added" else box
            tensor, there = TensorMap.of(x, (8, 16), width), swizzled(box, width)
            ran(hopper("hopper.cu", kernel, 1, 64, [tensor, there, start[1], start[0], 512], dynamic_smem=512))
            np.testing.assert_array_equal(x, wanted[20:32, 20:56])


@pytest.mark.parametrize(
    ("shape", "width", "message"),
    [((8, 3), 0, "lines have 12 bytes"), ((8, 32), 64, "a swizzle of 64"), ((257, 4), 0, "1 .. 256")],
)
def test_maps_that_the_driver_refuses(shape: tuple[int, int], width: int, message: str) -> None:
    with pytest.raises(ptxemu.TensorMapError, match=message):
        TensorMap.of(np.zeros((300, 64), F32), shape, width)
    with pytest.raises(ptxemu.TensorMapError, match="strides of"):
        TensorMap.of(np.zeros((8, 63), F32), (8, 4))


def test_what_is_no_map(hopper: Cuda) -> None:
    with pytest.raises(ptxemu.TensorMapError, match="is none"):
        hopper("hopper.cu", "box", 1, 64, [bytes(128), np.zeros(256, F32), 0, 0, 1024], dynamic_smem=1024)
