"""Some random inputs for every operator, others in every run; make sanitize has many, of a build that watches every
access. FASTPIXCON_FUZZ_SEED=.. repeats a run."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random, SystemRandom

import pytest
import torch
from fuzz import spoil, targets
from fuzz.cases import CASES

from fastpixcon.ops import backends, define
from fastpixcon.testing import GatherCase
from fastpixcon.testing.rounding import spread_of_products, spread_of_total

BASE_SEED = int(os.environ.get("FASTPIXCON_FUZZ_SEED", SystemRandom().randrange(2**40)))
needs_native = pytest.mark.skipif(backends.missing("native") is not None, reason="fastpixcon._C was not built")


@needs_native
@pytest.mark.parametrize("operator", list(CASES))
def test_random_input(operator: str) -> None:
    before = torch.get_num_threads()
    for seed in range(BASE_SEED, BASE_SEED + 12):
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


# What has been found: seeds of inputs that failed.
@needs_native
@pytest.mark.parametrize(
    ("operator", "seed"),
    [
        *(("info_nce", 31337000 + n) for n in (116, 169, 318, 650, 816, 1032, 1449, 1587, 1662, 1918, 3098)),  # values
        ("info_nce", 31337637),  # of one feature in bfloat16, as the next two
        ("info_nce_backward", 31337833),
        ("contrast_gradient", 31349315),
        ("info_nce", 1061514566974),  # a weight of 3e-46
        ("info_nce", 239003686618),  # averages that cancel, as the next two
        ("contrast_gradient", 1061514567689),
        ("contrast_gradient", 725882049555),
        ("mining_thresholds", 643203254389),  # a cosine at the edge of the last bin
    ],
)
def test_what_failed_once(operator: str, seed: int) -> None:
    before = torch.get_num_threads()
    targets.check(targets.make(operator, seed, rules=False))
    torch.set_num_threads(before)


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


def fuzz(*options: str) -> str:
    """What the command prints."""
    command = [sys.executable, "-m", "fuzz", *options]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_native
def test_the_command_runs_every_target_and_says_so(tmp_path: Path) -> None:
    """With a seed of its own, unless it is given one."""
    how = ("--runs", "1", "--isa", "baseline", "--out", str(tmp_path))
    printed = fuzz(*how)
    (seed,) = re.findall(r"^--seed (\d+)$", printed, re.MULTILINE)
    assert all(f"{operator} " in printed for operator in CASES)
    assert printed.count(f"inputs from seed {seed}") == len(CASES)
    again = fuzz("memory_rows", *how, "--seed", seed)
    assert f"inputs from seed {seed}" in again
    assert "--seed" not in again
    assert f"--seed {seed}" not in fuzz("memory_rows", *how)
    assert not list(tmp_path.iterdir())  # only inputs that failed are there


@needs_native
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_triton_kernels_have_the_same_targets(tmp_path: Path) -> None:
    printed = fuzz("gather_normalize", "--runs", "2", "--backend", "triton", "--out", str(tmp_path), "--seed", "1")
    assert re.search(r"triton 0 failed of 2", printed)


def test_equal_weights_are_rounded_alike() -> None:
    """Errors of distinct ones add up in squares."""
    rows = torch.ones(4, 1, dtype=torch.float64)
    weights = torch.tensor([[1.0, -1, 1, 1], [1, 2, 3, 4], [0.5, 0.5, 0, 2]], dtype=torch.float64)
    wanted = torch.tensor([4.0, 30**0.5, 5**0.5], dtype=torch.float64)
    torch.testing.assert_close(spread_of_products(weights, rows), wanted)
    torch.testing.assert_close(spread_of_products(weights, 3 * rows), 3 * wanted)
    assert spread_of_total(weights[:1], torch.tensor([[1.0, 1, 1, -1]]).double()) == 0
    assert spread_of_products(weights[:, :0], rows[:0]).tolist() == [0, 0, 0]
