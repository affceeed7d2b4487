"""Faults of kernels for sm_90a that are found, and the same kernels without them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import ptxemu
import pytest

Cuda = Callable[..., ptxemu.Result]


def arguments() -> list[np.ndarray]:
    return [np.arange(1, 257, dtype=np.float32), np.zeros(256, np.float32)]


FAULTS = [
    ("no_wait_for_a_stage", "PendingCopyError", "read .* a copy in bulk whose mbarrier has not completed"),
    ("stage_written_too_early", "PendingCopyError", "write .* a copy in bulk whose mbarrier has not completed"),
    ("source_not_aligned", "MisalignedError", "at misaligned address"),
    ("waits_for_too_few_groups", "RaceError", "a copy in bulk from it"),
    ("another_warp_waited", "RaceError", r"read after write.* warp 4 and a copy in bulk to it"),
    ("stage_taken_too_early", "RaceError", "write after read.* a copy in bulk to it and warp"),
    ("overwritten_while_stored", "RaceError", "write after read.* a copy in bulk from it"),
    ("exits_while_stored", "PendingCopyError", "may still read shared memory at exit"),
    ("no_fence_before_a_store", "ProxyError", "warp 0 wrote on PTX line .* no fence.proxy.async"),
    ("fence_behind_the_barrier", "ProxyError", "no fence.proxy.async"),
    ("no_fence_in_global_memory", "ProxyError", "cp by the async proxy, of what line .* no fence.proxy.async"),
    ("too_few_arrivals", "DeadlockError", "256 threads .* at the mbarrier at .* phase 0 lacks 1 of 257 arrivals"),
    ("too_many_arrivals", "BarrierError", "256 arrivals in a phase that waits for 250"),
    ("too_many_bytes_expected", "DeadlockError", "lacks 16 bytes"),
    ("too_few_bytes_expected", "DeadlockError", "lacks -16 bytes"),
    ("bytes_overflow", "BarrierError", "1048576 bytes are pending"),
    ("no_mbarrier", "BarrierError", "nothing initialised it"),
    ("mbarrier_before_a_barrier", "RaceError", "without a barrier after its mbarrier.init"),
    ("initialised_twice", "BarrierError", "initialised once more"),
    ("completes_without_completion", "BarrierError", "with .noComplete ends its phase"),
    ("mbarrier_of_too_many", "BarrierError", "of 1048576 arrivals"),
    ("mbarrier_as_data", "BarrierError", "touches an mbarrier"),
    ("wrong_parity", "BarrierError|DeadlockError", "arrivals"),
    ("no_fence_before_a_product", "ProxyError", "wgmma reads .* no fence.proxy.async"),
    ("sums_taken_in_flight", "InFlightError", "of a wgmma under way"),
    ("one_group_too_many_in_flight", "InFlightError", "of a wgmma under way"),
    ("sums_set_without_a_fence", "InFlightError", "touched since the last wgmma.fence"),
    ("left_side_changed_in_flight", "InFlightError", "of a wgmma under way"),
    ("no_product_fence", "InFlightError", "before any wgmma.fence"),
    ("operand_overwritten_in_flight", "RaceError", "write after read.* a wgmma of warpgroup"),
    ("own_operand_overwritten_in_flight", "RaceError", "write after read.* a wgmma of warpgroup 0"),
    ("product_never_waited_for", "InFlightError", "still in flight at exit"),
    ("one_warp_waited_for_an_operand", "RaceError", "read after write.* a copy in bulk to it"),
    ("fence_of_one_warp", "ProxyError", "no fence.proxy.async"),
    ("product_of_three_warps", "DeadlockError", "for other warps of their warpgroup"),
    ("operand_out_of_bounds", "OutOfBoundsError", "wgmma read"),
    ("registers_beyond_the_budget", "RegisterBudgetError", "128 threads .* at a setmaxnreg"),
    ("registers_more_by_dec", "RegisterBudgetError", "to 256 registers of a warp that has 255"),
    ("registers_fewer_by_inc", "RegisterBudgetError", "to 40 registers of a warp that has 255"),
    ("exits_before_its_neighbour", "ClusterError", "of block 0 of the cluster, which has exited"),
    ("no_barrier_of_the_cluster", "RaceError", "warp 0 of block 0 of the cluster and warp 0 of block 1"),
    ("relaxed_arrival_at_the_cluster", "RaceError", "read after write"),
    ("arrives_twice_at_the_cluster", "ClusterError", "a second time"),
    ("waits_for_the_cluster_at_once", "ClusterError", "without barrier.cluster.arrive before"),
    ("one_block_waits_for_the_cluster", "DeadlockError", "at the barrier of their cluster"),
    ("rank_outside_the_cluster", "OutOfBoundsError", "of block 2 of the cluster"),
]


def file_of(kernel: str) -> str:
    (file,) = (x for x in Path(__file__).parent.glob("hopper_faults_*.cu") if f"({kernel})" in x.read_text())
    return file.name


@pytest.mark.parametrize(("kernel", "error", "message"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_a_fault_is_found(kernel: str, error: str, message: str, hopper: Cuda) -> None:
    in_cluster = "cluster" in kernel or "neighbour" in kernel
    grid = 2 if in_cluster else 1
    assert hopper(file_of(kernel), f"{kernel}_sound", grid, 256, arguments()).warnings == []
    errors = tuple(getattr(ptxemu, name) for name in error.split("|"))
    with pytest.raises(errors, match=message) as found:
        hopper(file_of(kernel), f"{kernel}_faulty", grid, 256, arguments(), max_steps=10000)
    assert f"{kernel}_faulty: PTX line" in str(found.value)
    assert "thread (" in str(found.value)


@pytest.mark.parametrize(
    ("kernel", "option"),
    [
        ("exits_while_stored", "pending"),
        ("no_fence_before_a_product", "proxy"),
        ("sums_taken_in_flight", "in_flight"),
        ("sums_set_without_a_fence", "in_flight"),
        ("operand_overwritten_in_flight", "race"),
    ],
)
def test_a_finding_can_be_a_warning_or_off(kernel: str, option: str, hopper: Cuda) -> None:
    assert hopper(file_of(kernel), f"{kernel}_faulty", 1, 256, arguments(), **{option: "warn"}).warnings
    assert not hopper(file_of(kernel), f"{kernel}_faulty", 1, 256, arguments(), **{option: "off"}).warnings


def test_registers_at_launch_can_be_told(hopper: Cuda) -> None:
    with pytest.raises(ptxemu.RegisterBudgetError):
        hopper(
            file_of("registers_beyond_the_budget"),
            "registers_beyond_the_budget_sound",
            1,
            256,
            arguments(),
            registers=128,
        )
