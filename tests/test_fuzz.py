"""Some random inputs for every operator; make sanitize has many, of a build that watches every access."""

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch
from fuzz import spoil, targets
from fuzz.cases import CASES

from fastpixcon.ops import backends, define
from fastpixcon.testing import GatherCase

needs_native = pytest.mark.skipif(backends.missing("native") is not None, reason="fastpixcon._C was not built")


@needs_native
@pytest.mark.parametrize("operator", list(CASES))
def test_random_input(operator: str) -> None:
    before = torch.get_num_threads()
    for seed in range(12):
        given = targets.make(operator, seed)
        try:
            targets.check(given)
        except AssertionError as error:
            raise AssertionError(f"{given}: cd tests && python -m fuzz {operator} --seed {seed} --runs 1") from error
        finally:
            torch.set_num_threads(before)


def test_every_operator_has_a_target() -> None:
    assert set(CASES) == set(define.OPERATORS) == set(targets.CHECKS)


@pytest.mark.parametrize("operator", list(CASES))
def test_a_seed_makes_one_input(operator: str) -> None:
    for seed in range(4):
        first, second = (targets.make(operator, seed) for _ in range(2))
        assert str(first) == str(second)
        for x, y in zip(first.arguments or [], second.arguments or [], strict=True):
            if isinstance(x, torch.Tensor) and not x.is_complex():
                assert torch.equal(x.double().nan_to_num(7), y.double().nan_to_num(7))
            elif not isinstance(x, torch.Tensor):
                assert repr(x) == repr(y)


@pytest.mark.parametrize("shape", [(), (5,), (3, 0), (2, 3, 4, 5)])
def test_other_strides_have_the_same_values(shape: tuple[int, ...]) -> None:
    random = Random(0)
    x = torch.randn(shape)
    for _ in range(20):
        assert torch.equal(spoil.with_strides(x, random), x)


def test_a_wrong_result_is_noticed() -> None:
    right = (torch.randn(4, 3), torch.arange(4))
    targets.same(right, right)
    for wrong in (right[0] * 1.001, right[0].index_fill(1, torch.tensor(1), torch.nan)):
        with pytest.raises(AssertionError):
            targets.same((wrong, right[1]), right)
    with pytest.raises(AssertionError):
        targets.same((right[0], right[1] + 1), right)


# What has been found.
@needs_native
@pytest.mark.parametrize(
    ("operator", "wrong"), [("memory_enqueue_", -1), ("memory_enqueue_", -(2**63)), ("memory_enqueue_", 2**63 - 1)]
)
def test_counts_that_no_ring_can_have_are_refused(operator: str, wrong: int) -> None:
    """Places in memory are made of them."""
    given = targets.make(operator, 0).case.arguments()
    given[2][0, 0] = wrong
    for backend in ("native", "reference"):
        with pytest.raises(ValueError, match=r"written: got .*, want counts in"):
            define.OVERLOADS[backend, operator](*given)


@needs_native
def test_rows_without_width() -> None:
    x, index = GatherCase(2, 3, 1, 1, 2).arguments()
    rows, inv_norm = define.OVERLOADS["native", "gather_normalize"](x[:, :0], index)
    assert rows.shape == (2, 0)
    assert (inv_norm == 0).all()


@needs_native
def test_the_command_runs_every_target_and_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fuzz", "--runs", "1", "--isa", "amx_emulated", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    if "not on this processor" not in done.stdout:
        assert all(f"{operator} " in done.stdout for operator in CASES)
    assert not list(tmp_path.iterdir())  # only inputs that failed are there
