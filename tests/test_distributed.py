"""Contrast across real processes is the loss of one process with the batches of all."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from harness import distributed_checks as checks
from harness.distributed_checks import Setting, on_ranks, same_as_one_process

import fastpixcon as fpc
from fastpixcon.functional import info_nce

SETTINGS = [
    *(
        Setting(sizes, denominator, **more)
        for denominator in ("negatives", "all")
        for sizes, more in (
            ("even", {}),
            ("uneven", {"learned": True}),
            ("uneven", {"temperature": 0.02}),
            ("empty", {"learned": True, "temperature": 0.3}),
            ("ignored", {"reduction": "sum"}),
            ("uneven", {"memory": True, "learned": True}),
            ("empty", {"memory": True}),
        )
    ),
    Setting("none"),
    Setting("uneven", pairs="weights"),
    Setting("empty", "all", pairs="balanced", memory=True),
    Setting("uneven", "decoupled", pairs="classes", learned=True),
    Setting("uneven", pairs="other same", temperature=0.02),
    Setting("even", "decoupled", pairs="balanced", memory=True),
]
MINED = [
    Setting(sizes, denominator, mining=True, memory=memory, learned=True)
    for sizes in ("uneven", "empty")
    for denominator in ("negatives", "all")
    for memory in (False, True)
]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("across", ["gather", "ring"])
def test_the_same_as_one_process(size: int, across: str) -> None:
    settings = SETTINGS + (MINED if across == "gather" and size > 1 else [])
    on_ranks(size, same_as_one_process, settings, across, "reference")


@pytest.mark.parametrize("across", ["gather", "ring"])
def test_float32(across: str) -> None:
    on_ranks(
        2,
        same_as_one_process,
        [replace(s, dtype=torch.float32) for s in [*SETTINGS[:7], *SETTINGS[-5:]]],
        across,
        "auto",
    )


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("across", ["gather", "ring"])
def test_training_is_that_of_one_process(size: int, across: str) -> None:
    on_ranks(size, checks.trains_as_one_process, across)


def test_all_banks_hold_the_same_rows() -> None:
    banks = on_ranks(3, checks.banks_stay_the_same)
    assert (banks[0]["labels"] >= 0).any()
    for bank in banks[1:]:
        for name, values in banks[0].items():
            assert np.array_equal(bank[name], values), name


@pytest.mark.parametrize("when", ["forward", "backward"])
@pytest.mark.parametrize("across", ["gather", "ring"])
def test_a_lost_rank_is_an_error_of_the_others(across: str, when: str) -> None:
    begin = time.monotonic()
    messages = on_ranks(3, checks.survivors_say_so, across, when, seconds=8, dying=1)
    assert time.monotonic() - begin < 40  # the start of three processes among it; a group waits for half an hour
    for rank in (0, 2):
        assert messages[rank].startswith(f"contrast across ranks ({across}): rank {rank} of 3 waited for"), messages
        assert "to exchange" in messages[rank]


@pytest.mark.parametrize("across", ["gather", "ring"])
def test_a_module_made_before_the_group_finds_it(across: str) -> None:
    on_ranks(2, checks.made_before_the_group, checks.free_port(), across)


def test_ranks_that_disagree_all_say_so() -> None:
    on_ranks(3, checks.disagreements)


def test_bad_input() -> None:
    on_ranks(2, checks.refuses)


def test_contrast_with_memory_alone() -> None:
    on_ranks(2, checks.memory_alone)


def test_without_a_group_it_is_the_local_loss() -> None:
    rows, labels = torch.randn(20, 6), torch.arange(20) % 4
    assert not dist.is_initialized()
    assert dist.group.WORLD is None
    assert torch.equal(info_nce(rows, labels, process_group=None, across="ring"), info_nce(rows, labels))
    assert fpc.PixelContrastLoss(process_group=dist.group.WORLD).ranks is None
