"""A short soak, and that a long one would notice."""

import pytest
import soak
import torch


def test_memory_stays_flat_over_some_steps() -> None:
    result = soak.soak(200)
    assert result.growth <= result.allowed, result
    assert all(torch.tensor(result.losses).isfinite())
    assert sum(result.losses[-20:]) < sum(result.losses[:20])


@pytest.mark.parametrize("steps", [200, 10_000])
@pytest.mark.parametrize(("per_step", "is_flat"), [(0, True), (16, True), (4096, False)])
def test_a_leak_shows(per_step: int, is_flat: bool, steps: int) -> None:
    at = list(range(steps // 100, steps + 1, steps // 100))
    warm_up = 10 * 2**20  # by the first value, which counts for nothing
    resident = [warm_up * (k > 0) + per_step * step for k, step in enumerate(at)]
    result = soak.Soak(at, resident, [1.0], 1.0)
    assert (result.growth <= result.allowed) == is_flat, result
