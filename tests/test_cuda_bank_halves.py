"""A bank of float32 in the CUDA kernels: cut into two halves of float16 once, for three products, whatever its weights;
where TF32 is allowed one float16."""

import math
import re

import pytest
import torch
from harness import compiled_cuda
from harness.compiled_cuda import Emulator, launching
from test_compiled_cuda import allowing_tf32
from torch import Tensor

from fastpixcon.ops import define
from fastpixcon.testing.accuracy import float64, leaves
from fastpixcon.testing.rounding import ONE, of_losses
from fastpixcon.values import ALL_PAIRS, BankRows, Rows, Rule

pytestmark = pytest.mark.skipif(compiled_cuda.missing() is not None, reason=str(compiled_cuda.missing()))

K, S, N = 3, 50, 40
TEMPERATURE = 0.025  # the least with a fixed shift: e^40 for a cosine of 1
Values = tuple[Rows, BankRows, Rule]


def unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


def spread(D: int, denominator: str = "negatives", fixed: bool = True, temperature: float = TEMPERATURE) -> Values:
    """Anchors from one end of a sphere to the other, and classes at one end and in most directions: logits of any
    size in a tile, and from tile to tile of a row."""
    generator = torch.Generator().manual_seed(D)
    pole = torch.eye(D)[0]
    bank = torch.randn(K, S, D, generator=generator) / math.sqrt(D)
    bank = unit(bank + 3 * pole * torch.tensor([1.0, 0.9, 0.2])[:, None, None])
    anchors = torch.randn(N, D, generator=generator) / math.sqrt(D)
    anchors = unit(anchors + 3 * pole * torch.linspace(-1, 1, N)[:, None])
    labels = torch.arange(K, dtype=torch.int32)
    rule = Rule(torch.tensor(temperature), denominator, fixed, False)
    return Rows(anchors, labels.repeat(N)[:N].contiguous()), BankRows(bank, labels[:, None].repeat(1, S)), rule


def native(operator: str, *values: object, emulator: Emulator | None = None) -> tuple[Tensor, ...]:
    with launching(emulator or Emulator()):
        return define.OVERLOADS["native", operator](*leaves(operator, *values))


def truth(operator: str, *values: object) -> tuple[Tensor, ...]:
    return define.OVERLOADS["reference", operator](*float64(leaves(operator, *values)))


def wrong_by(found: Tensor, wanted: Tensor) -> float:
    """Of the worst row, relative."""
    return float(((found - wanted).norm(dim=1) / wanted.norm(dim=1)).max())


@pytest.mark.parametrize("denominator", ["negatives", "all"])
@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("D", [40, 200, 400])
def test_means_of_weights_of_any_magnitude(D: int, fixed: bool, denominator: str) -> None:
    """Of every row as exact as its logits, though Z is from e^-40 to e^40."""
    values = spread(D, denominator, fixed)
    log_sum, mean = native("memory_sums", *values, ALL_PAIRS, True)
    exact, exact_mean = truth("memory_sums", *values, ALL_PAIRS, True)
    assert exact.max() - exact.min() > 40
    most = ONE * of_losses(1 / TEMPERATURE, D, K * S)
    assert float((log_sum - exact).abs().max()) < most
    assert wrong_by(mean, exact_mean) < most


@pytest.mark.parametrize("D", [40, 200, 400])
def test_pulls_of_any_magnitude(D: int) -> None:
    """Sigmoids down to e^-75, of every row as exact as its logits."""
    anchors, bank, rule = spread(D)
    log_sum = torch.linspace(-38, 38, N)[torch.randperm(N, generator=torch.Generator().manual_seed(0))]
    _, weight, _, pull = native("memory_positives", anchors, bank, rule, ALL_PAIRS, log_sum, True)
    _, exact_weight, _, exact = truth("memory_positives", anchors, bank, rule, ALL_PAIRS, log_sum, True)
    assert exact_weight.min() < 1e-20
    most = ONE * of_losses(1 / TEMPERATURE, D, S)
    assert float(((weight - exact_weight) / exact_weight).abs().max()) < most
    assert wrong_by(pull, exact) < most


def test_small_pulls_keep_the_bits_of_float16_where_tf32_is_allowed() -> None:
    """Sigmoids of a millionth: as float16 numbers they would be off by a thirtieth."""
    anchors, bank, rule = spread(40, temperature=0.1)
    log_sum = (anchors.x @ bank.x.flatten(0, 1).T).amin(dim=1) / rule.temperature - 13
    with allowing_tf32(True):
        *_, pull = native("memory_positives", anchors, bank, rule, ALL_PAIRS, log_sum, True)
    *_, exact = truth("memory_positives", anchors, bank, rule, ALL_PAIRS, log_sum, True)
    assert exact.norm(dim=1).max() < 1e-4
    assert wrong_by(pull, exact) < 5e-3


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("value", [1e30, torch.nan, -torch.inf])
def test_an_empty_place_may_hold_anything(value: float, allowed: bool) -> None:
    anchors, bank, rule = spread(40)
    bank.labels[:, ::3] = -1
    results = []
    for what in (0.0, value):
        bank.x[bank.labels < 0] = what
        with allowing_tf32(allowed):
            results.append(native("memory_sums", anchors, bank, rule, ALL_PAIRS, True))
    for x, y in zip(*results, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("allowed", [False, True])
def test_what_is_multiplied(allowed: bool, fixed: bool) -> None:
    """Three products of float16 of 4 N M D FLOP, of 6 N M D where log Z comes first; where TF32 is allowed one, and log
    Z first."""
    n, m, D = 128, 192, 128
    generator = torch.Generator().manual_seed(0)
    bank = unit(torch.randn(K, m // K, D, generator=generator))
    labels = torch.arange(K, dtype=torch.int32)
    anchors = Rows(unit(torch.randn(n, D, generator=generator)), labels.repeat(n)[:n].contiguous())
    rule = Rule(torch.tensor(0.1), "negatives", fixed, False)
    emulator = Emulator(multiprocessors=1)
    with allowing_tf32(allowed):
        native("memory_sums", anchors, BankRows(bank, labels[:, None].repeat(1, m // K)), rule, ALL_PAIRS, True,
               emulator=emulator)  # fmt: skip
    sweeps = [launch.profile for launch in emulator.launches if "contrast_rows" in launch.kernel]
    used = {name for profile in sweeps for name in profile.by_opcode if "mma" in name}
    assert used == {"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"}
    each, once = 1 if allowed else 3, fixed and not allowed
    assert sum(profile.flops for profile in sweeps) == each * (4 if once else 6) * n * m * D
    assert len(sweeps) == (1 if once else 2)
    assert sum(bool(re.search("prepare_rows", launch.kernel)) for launch in emulator.launches) == 2
