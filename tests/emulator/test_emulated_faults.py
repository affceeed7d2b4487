"""Faults that are found, and the same kernels without them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import ptxemu
import pytest

FAULTS_FILE = Path(__file__).with_name("faults.cu")
Cuda = Callable[..., ptxemu.Result]


def arguments() -> list[np.ndarray]:
    return [np.arange(1, 65, dtype=np.float32), np.zeros(64, np.float32)]


FAULTS = [
    ("past_the_end", "OutOfBoundsError", "4-byte global read .* offset 256 of array 'arg0' .*thread .63, 0, 0"),
    ("before_the_start", "OutOfBoundsError", "write .* 4 bytes before array 'arg1'"),
    ("past_shared_memory", "OutOfBoundsError", "shared write at 0x100 .*s at 0x0 of 256 bytes"),
    ("misaligned", "MisalignedError", "16-byte global read"),
    ("misaligned_in_shared_memory", "MisalignedError", "8-byte shared read"),
    ("uninitialised", "UninitializedReadError", r"\(s\+240\) .* never written"),
    ("no_wait_for_a_copy", "PendingCopyError", "read .* no wait has completed"),
    ("store_over_a_copy", "PendingCopyError", "write .* no wait has completed"),
    ("read_after_write", "RaceError", r"read after write\) .* warp . and warp . .* no barrier between"),
    ("write_after_read", "RaceError", "write after read"),
    ("write_after_write", "RaceError", "write/write in one instruction"),
    ("read_after_atomic", "RaceError", "read after atomic"),
    ("arrives_twice", "DivergenceError", "arrives twice at barrier 1"),
    ("races_in_global_memory", "RaceError", "global memory race: ld without a barrier after a write"),
    ("barrier_of_a_few", "DivergenceError", "divergent barrier"),
    ("different_barriers", "DeadlockError", "32 threads at barrier 1 .* 32 threads at barrier 2"),
    ("shuffle_from_outside", "DivergenceError", "lane 16, which does not execute it"),
    ("shuffle_with_the_absent", "DeadlockError", "lanes that never come"),
    ("traps", "DeviceTrapError", "thread .3, 0, 0"),
    ("endless", "StepLimitError", "endless loop"),
]


@pytest.mark.parametrize(("kernel", "error", "message"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_a_fault_is_found(kernel: str, error: str, message: str, cuda: Cuda) -> None:
    assert cuda("faults.cu", f"{kernel}_sound", 1, 64, arguments()).warnings == []
    with pytest.raises(getattr(ptxemu, error), match=message) as found:
        cuda("faults.cu", f"{kernel}_faulty", 1, 64, arguments(), max_steps=10000)
    assert f"{kernel}_faulty: PTX line" in str(found.value)
    assert "block (0, 0, 0)" in str(found.value)


@pytest.mark.parametrize(
    ("kernel", "option"),
    [
        ("uninitialised", "uninit"),
        ("no_wait_for_a_copy", "pending"),
        ("write_after_read", "race"),
        ("races_in_global_memory", "global_race"),
        ("shuffle_from_outside", "divergence"),
    ],
)
def test_a_finding_can_be_a_warning_or_off(kernel: str, option: str, cuda: Cuda) -> None:
    warned = cuda("faults.cu", f"{kernel}_faulty", 1, 64, arguments(), **{option: "warn"})
    assert [type(x) for x in warned.warnings]
    assert not cuda("faults.cu", f"{kernel}_faulty", 1, 64, arguments(), **{option: "off"}).warnings
    with pytest.raises(ValueError, match="expected"):
        cuda("faults.cu", f"{kernel}_faulty", 1, 64, arguments(), **{option: True})


def test_the_same_value_from_two_warps_is_benign_only_if_wanted(cuda: Cuda) -> None:
    with pytest.raises(ptxemu.RaceError):
        cuda("faults.cu", "write_after_write_sound", 1, 64, arguments(), benign_same_value=False)


# Programs that tell each other by atomics that they are done


def programs() -> list[np.ndarray]:
    return [np.arange(320, dtype=np.float32), np.zeros(320, np.float32), np.zeros(1, np.float32)]


@pytest.mark.parametrize("batch_threads", [4096, 1])
@pytest.mark.parametrize("kernel", ["last_fences_of_one", "last_fences_of_all"])
def test_fences_and_an_atomic_order_programs(kernel: str, batch_threads: int, cuda: Cuda) -> None:
    x, parts, total = programs()
    cuda("faults.cu", kernel, 5, 64, [x, parts, total], batch_threads=batch_threads)
    assert total == x.sum()


@pytest.mark.parametrize("batch_threads", [4096, 1])
@pytest.mark.parametrize("kernel", ["last_no_release", "last_no_acquire", "last_no_acquire_of_all"])
def test_each_fence_is_needed(kernel: str, batch_threads: int, cuda: Cuda) -> None:
    with pytest.raises(ptxemu.RaceError, match="global memory race: ld"):
        cuda("faults.cu", kernel, 5, 64, programs(), batch_threads=batch_threads)


def test_a_fence_within_a_program_orders_no_others(cuda: Cuda) -> None:
    ptx, _ = ptxemu.compile_cuda(FAULTS_FILE)
    assert "membar.gl" in ptx
    with pytest.raises(ptxemu.RaceError, match="global memory race: ld"):
        ptxemu.launch_cuda(ptx.replace("membar.gl", "membar.cta"), "last_fences_of_one", 5, 64, programs())


def test_release_and_acquire_order_programs(cuda: Cuda) -> None:
    x, between, y = np.arange(64, dtype=np.float32), np.zeros(64, np.float32), np.zeros((4, 64), np.float32)
    arguments = [x, np.zeros(1, np.uint32), between, y]
    cuda("faults.cu", "first_one_gives", 4, 64, arguments)
    np.testing.assert_array_equal(y, np.tile(x[::-1], (4, 1)))
    ptx, _ = ptxemu.compile_cuda(FAULTS_FILE)
    for strong, weaker in (("ld.acquire", "ld.relaxed"), ("st.release", "st.relaxed")):
        arguments[1][:] = 0
        with pytest.raises(ptxemu.RaceError, match="global memory race: ld"):
            ptxemu.launch_cuda(ptx.replace(strong, weaker), "first_one_gives", 4, 64, arguments)


def test_order_is_passed_on(cuda: Cuda) -> None:
    x, sums = np.arange(1, 7, dtype=np.float32), np.zeros(6, np.float32)
    cuda("faults.cu", "chain", 6, 1, [x, np.zeros(6, np.uint32), sums])
    np.testing.assert_array_equal(sums, np.cumsum(x))


def test_a_lock(cuda: Cuda) -> None:
    count = np.zeros(1, np.int32)
    cuda("faults.cu", "counter_under_a_lock", 7, 64, [np.zeros(1, np.uint32), count])
    assert count == 7
