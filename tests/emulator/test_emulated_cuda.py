"""Kernels that nvcc compiled, its own and CUB's among them, against numpy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import ptxemu
import pytest
import torch

Cuda = Callable[..., ptxemu.Result]


def floats(*shape: int) -> torch.Tensor:
    return torch.randn(shape)


def test_radix_sort_of_cub(cuda: Cuda, rng: np.random.Generator) -> None:
    keys = rng.integers(0, 2**32, (3, 512), dtype=np.uint32)
    ordered, places = np.zeros_like(keys), np.zeros_like(keys)
    cuda("cub.cu", "sort_pairs", 3, 128, [keys, ordered, places])
    np.testing.assert_array_equal(ordered, np.sort(keys, 1))
    np.testing.assert_array_equal(keys.reshape(-1)[places], ordered)


def test_scans_of_cub(cuda: Cuda, rng: np.random.Generator) -> None:
    x = rng.integers(-100, 100, (4, 256), dtype=np.int32)
    inclusive, exclusive, total = np.zeros_like(x), np.zeros_like(x), np.zeros(4, np.int32)
    cuda("cub.cu", "scan", 4, 256, [x, inclusive, exclusive, total])
    sums = np.cumsum(x, 1)
    for actual, expected in ((inclusive, sums), (exclusive, sums - x), (total, sums[:, -1])):
        np.testing.assert_array_equal(actual, expected)


def test_reductions_of_cub(cuda: Cuda, rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 256))
    sums, maxima = np.zeros(3), np.zeros(24)
    cuda("cub.cu", "reduce", 3, 256, [x, sums, maxima])
    np.testing.assert_allclose(sums, x.sum(1), atol=1e-12)
    np.testing.assert_array_equal(maxima, x.reshape(24, 32).max(1))


@pytest.mark.parametrize(
    ("kernel", "dtype", "result", "by_columns", "tolerance"),
    [
        ("wmma_f16", torch.float16, torch.float32, False, 1e-4),
        ("wmma_f16_by_columns", torch.float16, torch.float16, True, 0.15),
        ("wmma_bf16", torch.bfloat16, torch.float32, False, 1e-4),
        ("wmma_tf32", torch.float32, torch.float32, False, 0.03),
    ],
)
def test_wmma(
    kernel: str, dtype: torch.dtype, result: torch.dtype, by_columns: bool, tolerance: float, cuda: Cuda
) -> None:
    m, n, k = 64, 32, 48
    a, b, c = floats(m, k).to(dtype), floats(k, n).to(dtype), torch.zeros(m, n, dtype=result)
    stored = a.T.contiguous() if by_columns else a
    cuda("kernels.cu", f"{kernel}", 4, 64, [stored, b, c, m, n, k])
    torch.testing.assert_close(c.double(), a.double() @ b.double(), atol=tolerance, rtol=0)


def test_pipelined_product(cuda: Cuda) -> None:
    a, b, c = floats(64, 104).half(), floats(64, 104).half(), torch.zeros(64, 64)
    result = cuda("kernels.cu", "pipelined", 1, 128, [a, b, c, 104], profile=True)
    torch.testing.assert_close(c.double(), a.double() @ b.double().T, atol=1e-3, rtol=0)
    assert result.profile.by_class["mma"] == 64 * 64 * 128 // (16 * 8 * 16)
    conflicts = {use.opcode: use.measured for use in result.profile.memory if use.space == "shared"}
    assert conflicts.pop("cp.async.cg.shared.global") == 2  # 16 bytes to each row of 80
    assert set(conflicts.values()) == {1}


def test_ldmatrix_transposed(cuda: Cuda) -> None:
    x, y = floats(4, 8, 8).half(), torch.zeros(4, 8, 8).half()
    cuda("kernels.cu", "transposed", 1, 32, [x, y])
    assert torch.equal(y, x.transpose(1, 2))


def test_atomics(cuda: Cuda) -> None:
    n = 3 * 96
    t = np.arange(n)
    i, u, f = np.zeros(4, np.int32), np.zeros(6, np.uint32), np.zeros(3, np.float32)
    u[0] = 0xFFFFFFFF
    h, old = np.zeros(2, np.float16), np.zeros(n, np.uint32)
    cuda("kernels.cu", "atomics", 3, 96, [i, u, f, h, old])
    assert i.tolist() == [t.sum(), -(n - 1), n - 1, t.sum()]
    steps = 0
    for _ in range(n):
        steps = (steps * 3 + 1) % 2**32
    assert u.tolist() == [1, 0xFFFFFFFF, np.bitwise_xor.reduce(t), n % 7, n, steps]
    assert f.tolist() == [0.5 * n / 3] * 3
    assert h.tolist() == [n, n / 2]
    assert sorted(old) == list(range(n))


def test_operations_of_a_warp(cuda: Cuda, rng: np.random.Generator) -> None:
    x = rng.integers(0, 1000, 32, dtype=np.int32)
    y, masks = np.zeros((6, 32), np.int32), np.zeros((4, 32), np.uint32)
    cuda("kernels.cu", "warp_operations", 1, 32, [x, y, masks])
    lane = np.arange(32)
    down = np.where(lane % 16 + 7 < 16, lane + 7, lane)
    expected = [x[np.maximum(lane - 3, 0)], x[down], x[lane ^ 9], x[lane // 8 * 8 + lane * 7 % 8], [x.max()] * 32]
    expected[0][:3] = x[:3]
    expected.append(np.where(lane < 10, x[(lane + 1) % 10], 0))
    np.testing.assert_array_equal(y, expected)

    def mask(which: np.ndarray) -> int:
        return int((which * 2**lane).sum())

    odd = x % 2 == 1
    assert masks[0].tolist() == [mask(odd)] * 32
    assert masks[1].tolist() == [mask(x % 5 == v % 5) for v in x]
    assert masks[2].tolist() == [mask(odd) if v else 0 for v in odd]
    assert masks[3].tolist() == [odd.sum()] * 32


def test_functions_constants_and_a_switch(cuda: Cuda) -> None:
    n = 40
    p = np.array([(0.5, 1.25, [1, 2, 3, 4])], np.dtype([("a", "f4"), ("b", "f8"), ("c", "i2", 4)], align=True))
    y, side, chosen = np.zeros(n), np.zeros(n, np.float32), (np.arange(n, dtype=np.int32) * 7 % 4)
    cuda("kernels.cu", "calls", 1, n, [p.tobytes(), y, side, chosen])

    def expected(i: int) -> float:
        value = 1.25 * i + [1, 2, 3, 4][i % 4] + [1, 2, 3, 8.5][chosen[i]] * i + 5
        value += 1.25 * (i + 1) + [1, 2, 3, 4][(i + 1) % 4] if i % 3 == 0 else 0
        case = int(chosen[i]) + i % 4 * 2
        return {0: value + 11, 1: value * 7, 2: value - i.bit_count(), 3: -5, 5: value + i * i, 6: -value}.get(
            case, value
        )

    assert y.tolist() == [expected(i) for i in range(n)]
    assert side.tolist() == [0.5 + i if i % 2 else 1.5 + i if i % 3 == 0 else 0 for i in range(n)]


def test_divergent_loops(cuda: Cuda) -> None:
    def steps(v: int) -> int:
        return 0 if v == 1 else 1 + steps(3 * v + 1 if v % 2 else v // 2)

    x, y = np.arange(1, 193, dtype=np.int32), np.zeros(192, np.int32)
    for together in (4096, 1):  # programs in lockstep, and one after the other
        y[:] = 0
        cuda("kernels.cu", "divergent", 3, 64, [x, y], batch_threads=together)
        assert y.tolist() == [steps(int(v)) for v in x]


def test_named_barriers(cuda: Cuda, rng: np.random.Generator) -> None:
    x = rng.standard_normal((5, 64)).astype(np.float32)
    y = x.copy()
    cuda("kernels.cu", "producer_consumer", 1, 128, [y, 5])
    np.testing.assert_array_equal(y, 2 * x[:, ::-1])


def test_functions_of_floats(cuda: Cuda) -> None:
    x, y = floats(64), torch.zeros(14, 64)
    cuda("kernels.cu", "mathematics", 1, 64, [x, y, 64])
    v = x.double()
    positive = v.abs() + 0.1
    expected = [
        v.sin(),
        v.exp(),
        positive.log(),
        positive.rsqrt(),
        v.tanh(),
        v.erf(),
        positive**1.7,
        v.fmod(0.3),
        v.round(),
    ]
    expected += [1 / v, v / 3, positive.log1p(), v.sign() * v.abs() ** (1 / 3), v.exp()]
    torch.testing.assert_close(y.double(), torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_halves(cuda: Cuda) -> None:
    a, b, y = floats(32, 2).half(), floats(32, 2).bfloat16(), torch.zeros(9, 32)
    cuda("kernels.cu", "halves", 1, 32, [a, b, y])
    x, z = a[:, 1].float(), b[:, 1].float()
    of_f16 = [2 * x, x * x, x * x + x, x.clamp(min=0), (x < 0).float()]
    of_bf16 = [2 * z, z * z + z, -z, z * 1.001]
    expected = [r.half().float() for r in of_f16] + [r.bfloat16().float() for r in of_bf16]
    torch.testing.assert_close(y, torch.stack(expected), atol=0, rtol=0)


def test_printf_and_assert(cuda: Cuda) -> None:
    result = cuda("kernels.cu", "say", 1, 32, [3], echo_printf=False)
    assert result.printed == [f"t {i} v 1.50 abc {2**40} z|    3|%\n" for i in (0, 1)]
    with pytest.raises(ptxemu.DeviceAssertError, match="n > 0"):
        cuda("kernels.cu", "say", 1, 32, [0])


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ([], ptxemu.EmuError, "takes 2 parameters"),
        ([np.ones(64, np.int32), 4], ptxemu.OutOfBoundsError, "no global address"),
        ([np.ones(64, np.int32), None], ptxemu.OutOfBoundsError, "null"),
        ([np.ones(64, np.int32), b"abc"], ptxemu.EmuError, "has 8 bytes, got 3"),
    ],
)
def test_wrong_arguments(args: list[Any], error: type[Exception], message: str, cuda: Cuda) -> None:
    with pytest.raises(error, match=message):
        cuda("kernels.cu", "divergent", 1, 64, args)


def test_arrays_that_are_read_only_stay_so(cuda: Cuda) -> None:
    x, y = np.ones(64, np.int32), np.ones(64, np.int32)
    y.flags.writeable = False
    with pytest.raises(ptxemu.EmuError, match="read-only array arg1"):
        cuda("kernels.cu", "divergent", 1, 64, [x, y])
