"""Contrast across real processes is the loss of one process with the batches of all."""

from dataclasses import replace

import pytest
import torch
from distributed_checks import Setting, on_ranks, same_as_one_process

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
    on_ranks(2, same_as_one_process, [replace(s, dtype=torch.float32) for s in SETTINGS[:7]], across, "auto")
