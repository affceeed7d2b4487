"""Float32 in the CUDA kernels: rows and dL/ds in two halves of float16, which are multiplied by three products."""

import re
from typing import Any

import pytest
import torch
from harness import compiled_cuda
from harness.compiled_cuda import Emulator, launching
from harness.executed import outputs_of
from test_compiled_cuda import allowing_tf32
from torch import Tensor

from fastpixcon.ops import define
from fastpixcon.testing import InfoNCECase, backward_arguments

pytestmark = pytest.mark.skipif(compiled_cuda.missing() is not None, reason=str(compiled_cuda.missing()))

PLACE_OF_ROWS = 5  # among the arguments of prepare_rows


def prepared(x: Tensor) -> Tensor:
    """The rows as the kernels of a loss are given them, sorted already."""
    found: list[Tensor] = []
    emulator = Emulator()

    def run(name: str, grid: Any, block: Any, shared: int, arguments: Any) -> None:
        emulator(name, grid, block, shared, arguments)
        if "prepare_rows" in name:
            found.append(arguments[PLACE_OF_ROWS])

    arguments = InfoNCECase(*x.shape, labels="sorted", label_dtype=torch.int32, rows="unit").arguments()
    arguments[0] = x
    with launching(run):
        define.OVERLOADS["native", "info_nce"](*arguments)
    (rows,) = found
    return torch.as_tensor(rows)


def test_rows_are_cut_into_halves() -> None:
    """22 bits from 2^-15 on, and off by 2^-37 below; of every 32 numbers first the high halves, then the low ones."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 50, generator=generator)
    x *= 10.0 ** torch.empty(20, 50).uniform_(-8, 0, generator=generator)
    x = torch.nn.functional.normalize(x, dim=1)
    high, low = prepared(x).reshape(20, 2, 2, 32).double().unbind(2)
    found = (high + low / 2**11).reshape(20, 64)
    assert found[:, 50:].count_nonzero() == 0
    wrong = (found[:, :50] - x).abs()
    assert torch.all(wrong <= torch.maximum(x.abs() * 2.0**-22, torch.tensor(2.0**-36)))
    assert torch.equal(high.reshape(20, 64)[:, :50], x.half().double())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_nan_in_both_halves(value: float) -> None:
    x = torch.nn.functional.normalize(torch.randn(5, 40, generator=torch.Generator().manual_seed(0)), dim=1)
    x[3, 7] = value
    high, low = prepared(x).reshape(5, 2, 2, 32).unbind(2)
    for half in (high, low):
        of_rows = half.reshape(5, 64)[:, :40].isnan()
        assert torch.equal(of_rows, (torch.arange(5) == 3)[:, None].expand(5, 40))


@pytest.mark.parametrize("D", [64, 256])
def test_three_products_of_float16_and_one_where_tf32_is_allowed(D: int) -> None:
    counts = []
    for dtype, allowed in ((torch.float32, False), (torch.float32, True), (torch.float16, False)):
        emulator = Emulator(multiprocessors=1)
        with launching(emulator), allowing_tf32(allowed):
            outputs_of("native", InfoNCECase(256, D, dtype=dtype, labels="sorted", rows="unit", classes=7))
        used = {name for launch in emulator.launches for name in launch.profile.by_opcode if "mma" in name}
        assert used == {"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"}
        hot = [launch for launch in emulator.launches if re.search("sums|gradient", launch.kernel)]
        counts.append(sum(launch.profile.flops for launch in hot))
    full, of_tf32, half = counts
    assert of_tf32 == half
    assert 2 * half < full <= 3 * half  # the tiles of float16 are larger, and the triangle has more beyond its diagonal


def gradients(case: InfoNCECase, d_loss: Tensor, backend: str) -> tuple[Tensor, ...]:
    """In the dtype of the losses' gradient."""
    arguments = [x.to(d_loss) if isinstance(x, Tensor) and x.is_floating_point() else x for x in case.arguments()]
    outputs = define.OVERLOADS[backend, "info_nce"](*arguments)
    given = backward_arguments(case, arguments, outputs)
    given[0] = d_loss
    return define.OVERLOADS[backend, "info_nce_backward"](*given)


@pytest.mark.parametrize("M", [None, 60])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_d_losses_of_very_different_magnitude(M: int | None, scale: float) -> None:
    """Of a millionth of the largest one a row's own gradient is still right."""
    case = InfoNCECase(50, 40, M, labels="sorted")
    d_loss = scale * 10.0 ** -torch.linspace(0, 6, 50)
    with launching(Emulator()):
        found = gradients(case, d_loss, "native")[0]
    wanted = gradients(case, d_loss.double(), "reference")[0]
    wrong, size = (found - wanted).norm(dim=1), wanted.norm(dim=1)
    assert torch.all(wrong <= 1e-5 * size)


@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
def test_a_d_loss_that_has_no_scale(value: float) -> None:
    """Zeros give zeros; what is not finite shows."""
    case = InfoNCECase(40, 20, labels="sorted")
    d_loss = torch.ones(40)
    d_loss[3 if value else slice(None)] = value
    with launching(Emulator()):
        d_x, _, d_temperature = gradients(case, d_loss, "native")
    assert torch.equal(d_x, torch.zeros_like(d_x)) if value == 0 else d_x[3].isnan().all()
    assert d_temperature == 0 if value == 0 else d_temperature.isnan()
