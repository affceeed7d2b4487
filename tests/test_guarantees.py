"""What docs/guarantees.md says of threads."""

from collections.abc import Callable
from typing import Any

import pytest
import test_conformance
import test_conformance_contrast
import torch
from harness.tested_backends import Backend

from fastpixcon.testing import EnqueueCase, GatherCase, MemoryRowsCase, MiningCase, SelectCase

CASES: list[tuple[str, Any]] = [
    ("select_anchors", SelectCase(B=4, size=(70, 90), max_samples=900, max_views=60)),
    ("gather_normalize", GatherCase(4, 64, 40, 50, 3000, repeated=True)),
    ("gather_normalize_backward", GatherCase(4, 64, 40, 50, 3000, repeated=True)),
    ("gather_normalize_backward", GatherCase(4, 64, 40, 50, 3000, dtype=torch.float16, layout="channels_last")),
    ("memory_rows", MemoryRowsCase(B=4, D=64, size=(40, 50))),
    ("memory_rows", MemoryRowsCase(B=4, D=64, size=(40, 50), runs=True, layout="channels_last")),
    ("memory_enqueue_", EnqueueCase(K=19, D=64, pixels=700, regions=70, sizes=(20, 10))),
    ("mining_thresholds", MiningCase(300, 64, S=300)),
    ("mining_thresholds", MiningCase(300, 64, S=300, dtype=torch.bfloat16, negatives="hardest")),
]


@pytest.mark.parametrize(("operator", "case"), CASES, ids=str)
def test_the_number_of_threads_changes_nothing(operator: str, case: Any, threads: Callable[[int], None]) -> None:
    native = Backend("native", "cpu")
    op = native.op(operator)
    where = test_conformance if operator.startswith(("select", "gather")) else test_conformance_contrast
    results = []
    for number in (1, 2, 3, 5):
        threads(number)
        arguments = where.call_arguments(operator, case, native if where is test_conformance else "cpu")
        outputs = op(*arguments)
        results.append(arguments[:3] if outputs is None else test_conformance.as_tuple(outputs))
    for other in results[1:]:
        for x, y in zip(results[0], other, strict=True):
            assert torch.equal(x, y)
