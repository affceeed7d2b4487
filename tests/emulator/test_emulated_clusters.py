"""Clusters of programs, and what else sm_90a has."""

from collections.abc import Callable

import numpy as np
import ptxemu
import pytest
from ptxemu import TensorMap

Cuda = Callable[..., ptxemu.Result]
F32, U32 = np.float32, np.uint32


def test_ranks(hopper: Cuda) -> None:
    out = np.zeros((8, 6), U32)
    hopper("hopper.cu", "ranks", 8, 32, [out])
    block = np.arange(8)
    np.testing.assert_array_equal(
        out.T, [block % 4, block * 0 + 4, block // 4, block * 0 + 2, block % 4, block * 0 + 4]
    )


def test_two_dimensions(hopper: Cuda) -> None:
    out = np.zeros((6, 4), U32)
    hopper("hopper.cu", "two_dimensions", (4, 6), 32, [out], cluster=(2, 3))
    y, x = np.indices(out.shape)
    np.testing.assert_array_equal(out, y % 3 * 2 + x % 2)


@pytest.mark.parametrize("batch", [4096, 128])
def test_shared_memory_of_neighbours(batch: int, hopper: Cuda) -> None:
    out, sums = np.zeros((8, 32), U32), np.zeros(8, U32)
    assert hopper("hopper.cu", "neighbours", 8, 32, [out, sums], batch_threads=batch).warnings == []
    following = (np.arange(8) + 1) % 4
    wanted = 100 * following[:, None] + np.arange(32)
    wanted[:, 0] += 1000 * following + 100 * following
    np.testing.assert_array_equal(out, wanted)
    assert (sums == 31 * 16).all()


def test_arrivals_from_afar(hopper: Cuda) -> None:
    out = np.zeros((4, 32), U32)
    assert hopper("hopper.cu", "told", 4, 32, [out]).warnings == []
    np.testing.assert_array_equal(out, 10 * np.array([[1], [0], [1], [0]]) + np.arange(32))


def test_stores_and_copies_that_are_counted(hopper: Cuda) -> None:
    out = np.zeros((4, 64), U32)
    assert hopper("hopper.cu", "sent", 4, 32, [out]).warnings == []
    lane = np.arange(32)
    for block in range(4):
        np.testing.assert_array_equal(out[block], np.concatenate([lane**2, 7 * lane + (block % 2 ^ 1)]))


def test_multicast(hopper: Cuda, rng: np.random.Generator) -> None:
    x, out = rng.random((16, 32), F32), np.zeros((4, 16, 32), F32)
    tensor = TensorMap.of(x, (8, 32))
    result = hopper("hopper.cu", "multicast", 4, 64, [tensor, out, 16], dynamic_smem=2048, profile=True)
    assert result.warnings == []
    np.testing.assert_array_equal(out, np.broadcast_to(x, out.shape))
    assert result.traffic["arg0", "read"].bytes == 2 * x.nbytes  # once a cluster


def test_clusters_must_fit(hopper: Cuda) -> None:
    with pytest.raises(ptxemu.EmuError, match="clusters of"):
        hopper("hopper.cu", "ranks", 6, 32, [np.zeros((6, 6), U32)])
    with pytest.raises(ptxemu.EmuError, match="compiled for clusters"):
        hopper("hopper.cu", "ranks", 8, 32, [np.zeros((8, 6), U32)], cluster=(2,))


def test_registers_and_one_lane(hopper: Cuda) -> None:
    y = np.zeros(384, F32)
    assert hopper("hopper.cu", "registers", 1, 384, [y]).warnings == []
    np.testing.assert_array_equal(y, np.arange(384) % 32 == 0)


def test_matrices_are_stored(hopper: Cuda, rng: np.random.Generator) -> None:
    matrices = rng.integers(0, 2**16, (4, 8, 8), np.uint16)
    words = matrices.view(U32).reshape(4, 32)  # lane 4 i + j holds word j of row i
    out = np.zeros(192, U32)
    hopper("hopper.cu", "matrices_stored", 1, 32, [np.ascontiguousarray(words.T), out])
    np.testing.assert_array_equal(out[:128].view(np.uint16).reshape(4, 8, 8), matrices)
    np.testing.assert_array_equal(out[128:].view(np.uint16).reshape(2, 8, 8), matrices[:2].swapaxes(1, 2))


def test_cooperative_groups(hopper: Cuda) -> None:
    out = np.zeros((2, 32), U32)
    assert hopper("hopper_library.cu", "swapped", 2, 32, [out]).warnings == []
    np.testing.assert_array_equal(out, np.array([[100], [0]]) + np.arange(32))


@pytest.mark.parametrize(("kernel", "factor"), [("doubled", 2), ("copied", 1)])
def test_libcu(kernel: str, factor: int, hopper: Cuda, rng: np.random.Generator) -> None:
    x, y = rng.random(128, F32), np.zeros(128, F32)
    assert hopper("hopper_library.cu", kernel, 1, 128, [x, y]).warnings == []
    np.testing.assert_array_equal(y, factor * x)


def test_reductions_that_are_counted(hopper: Cuda) -> None:
    out = np.zeros((4, 2), U32)
    assert hopper("hopper.cu", "reduced", 4, 32, [out]).warnings == []
    np.testing.assert_array_equal(out, [[31 * 16 + 5, 31]] * 4)
