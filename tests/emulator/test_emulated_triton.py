"""Kernels of Triton that are not the library's, against torch."""

import re

import ptxemu
import pytest
import torch
from harness import compiled_triton

triton = pytest.importorskip("triton")
tl = triton.language

pytestmark = pytest.mark.skipif(compiled_triton.missing() is not None, reason=str(compiled_triton.missing()))


@triton.jit
def matmul_kernel(
    a_ptr,
    b_ptr,
    c_ptr,
    M,
    N,
    K,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    sums = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for k in range(0, K, BLOCK_K):
        offs_k = k + tl.arange(0, BLOCK_K)
        mask_a = (offs_m[:, None] < M) & (offs_k[None, :] < K)
        mask_b = (offs_k[:, None] < K) & (offs_n[None, :] < N)
        a = tl.load(a_ptr + offs_m[:, None] * K + offs_k[None, :], mask=mask_a, other=0.0)
        b = tl.load(b_ptr + offs_k[:, None] * N + offs_n[None, :], mask=mask_b, other=0.0)
        sums = tl.dot(a, b, sums, input_precision=PRECISION)
    mask = (offs_m[:, None] < M) & (offs_n[None, :] < N)
    tl.store(c_ptr + offs_m[:, None] * N + offs_n[None, :], sums, mask=mask)


TILES = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}


@pytest.mark.parametrize(
    ("dtype", "precision", "num_warps", "num_stages", "tolerance"),
    [
        (torch.float16, "tf32", 4, 3, 1e-3),
        (torch.bfloat16, "tf32", 8, 1, 1e-3),
        (torch.float32, "tf32", 4, 3, 0.1),
        (torch.float32, "ieee", 4, 1, 1e-4),
    ],
)
def test_matmul(dtype: torch.dtype, precision: str, num_warps: int, num_stages: int, tolerance: float) -> None:
    M, N, K = 96, 80, 144
    a, b, c = torch.randn(M, K).to(dtype), torch.randn(K, N).to(dtype), torch.zeros(M, N)
    options = {"num_warps": num_warps, "num_stages": num_stages, "PRECISION": precision, **TILES}
    result = ptxemu.run_triton(matmul_kernel, (2, 2), a, b, c, M, N, K, **options)
    torch.testing.assert_close(c.double(), a.double() @ b.double(), atol=tolerance, rtol=0)
    assert not result.warnings
    if precision != "ieee":
        FLOP = 2 * 128 * 128 * 160  # of whole tiles
        assert result.profile is not None
        assert result.profile.flops == FLOP


def test_every_barrier_and_wait_is_needed() -> None:
    """Without it, the race or the read of a copy under way is found; some are for nothing in a loop this short."""
    M, N, K = 64, 64, 160
    a, b, c = torch.randn(M, K).half(), torch.randn(K, N).half(), torch.zeros(M, N)
    compiled = ptxemu.compile_triton(matmul_kernel, (a, b, c, M, N, K), {"PRECISION": "tf32", **TILES})
    lines = compiled.asm["ptx"].splitlines()
    found: dict[str, list[type[Exception] | None]] = {"bar.sync": [], "cp.async.wait_group": []}
    for i, line in enumerate(lines):
        if match := re.match(r"\s*(bar\.sync|cp\.async\.wait_group)", line):
            try:
                ptxemu.launch_triton(compiled, 1, a, b, c, M, N, K, ptx="\n".join([*lines[:i], "", *lines[i + 1 :]]))
                found[match[1]].append(None)
            except ptxemu.EmuError as error:
                found[match[1]].append(type(error))
    assert ptxemu.RaceError in found["bar.sync"]
    assert ptxemu.PendingCopyError in found["cp.async.wait_group"]
    assert found["bar.sync"].count(None) <= 2, found


@triton.jit
def statistics_kernel(x_ptr, sorted_ptr, sums_ptr, histogram_ptr, most_ptr, BLOCK: tl.constexpr, BINS: tl.constexpr):
    """Of every row: sorted, its running sums, a histogram of it modulo BINS; the largest of all by an atomic."""
    row = tl.program_id(0)
    offs = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * BLOCK + offs)
    tl.store(sorted_ptr + row * BLOCK + offs, tl.sort(x))
    tl.store(sums_ptr + row * BLOCK + offs, tl.cumsum(x, 0))
    tl.store(histogram_ptr + row * BINS + tl.arange(0, BINS), tl.histogram(x % BINS, BINS))
    tl.atomic_max(most_ptr, tl.max(x, 0))


@pytest.mark.parametrize("num_warps", [1, 4])
def test_sort_scan_histogram_and_atomics(num_warps: int) -> None:
    x = torch.randint(0, 1000, (3, 128), dtype=torch.int32)
    ordered, sums, most = torch.zeros_like(x), torch.zeros_like(x), torch.zeros(1, dtype=torch.int32)
    histogram = torch.zeros(3, 16, dtype=torch.int32)
    ptxemu.run_triton(statistics_kernel, 3, x, ordered, sums, histogram, most, BLOCK=128, BINS=16, num_warps=num_warps)
    assert torch.equal(ordered, x.sort(1).values)
    assert torch.equal(sums, x.cumsum(1).int())
    assert torch.equal(histogram, torch.stack([torch.bincount(row % 16, minlength=16) for row in x]).int())
    assert most == x.max()


@triton.jit
def last_program_kernel(
    x_ptr, parts_ptr, ticket_ptr, sum_ptr, PROGRAMS: tl.constexpr, BLOCK: tl.constexpr, SEM: tl.constexpr
):
    """Sums of all programs, added by the last one."""
    i = tl.program_id(0)
    tl.store(parts_ptr + i, tl.sum(tl.load(x_ptr + i * BLOCK + tl.arange(0, BLOCK)), 0))
    tl.debug_barrier()
    if tl.atomic_add(ticket_ptr, 1, sem=SEM) == PROGRAMS - 1:
        tl.debug_barrier()
        tl.store(sum_ptr, tl.sum(tl.load(parts_ptr + tl.arange(0, PROGRAMS)), 0))


def test_programs_are_ordered_by_atomics_that_acquire_and_release() -> None:
    x, total = torch.arange(512.0), torch.zeros(1)
    for sem, is_sound in (("acq_rel", True), ("acquire", False), ("release", False), ("relaxed", False)):
        arguments = (x, torch.zeros(4), torch.zeros(1, dtype=torch.int32), total)
        if is_sound:
            ptxemu.run_triton(last_program_kernel, 4, *arguments, PROGRAMS=4, BLOCK=128, SEM=sem)
            assert total == x.sum()
        else:
            with pytest.raises(ptxemu.RaceError, match="global memory race: ld"):
                ptxemu.run_triton(last_program_kernel, 4, *arguments, PROGRAMS=4, BLOCK=128, SEM=sem)
