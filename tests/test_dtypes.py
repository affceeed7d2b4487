"""Rows, bank and temperature of different dtypes; autocast, which rounds rows after they are normalised."""

from typing import Any

import pytest
import torch
from harness.distributed_checks import on_ranks, rows_and_bank_of_other_dtypes, trains_a_sharded_temperature
from harness.tested_backends import Backend
from torch import Tensor

import fastpixcon as fpc
from fastpixcon.functional import info_nce, pixel_contrast
from fastpixcon.ops import define

N, D, K = 40, 16, 5
F64, F32, BF16, F16 = torch.float64, torch.float32, torch.bfloat16, torch.float16
NORMS = (1e-8, 4e-8, 1.0, 4e5, 1e6)
TOLERANCE = {F16: 2e-3, BF16: 1.5e-2}


def unit_rows(n: int, device: str = "cpu") -> Tensor:
    return torch.nn.functional.normalize(torch.randn(n, D, dtype=F64, device=device))


def bank_of(rows: Tensor, labels: Tensor, dtype: torch.dtype) -> fpc.MemoryBank:
    bank = fpc.MemoryBank(K, D, 6, 6, dtype=dtype).to(rows.device)
    with fpc.backend("reference"):
        bank.enqueue_rows(rows, labels.int(), rows[:3], labels[:3].int())
    return bank


def mining(wanted: bool) -> fpc.Mining | None:
    return fpc.Mining("hardest", "hardest", keep=(4, 6)) if wanted else None


@pytest.mark.parametrize("mined", [False, True])
@pytest.mark.parametrize("contrast_with", ["both", "memory", "batch", "each"])
@pytest.mark.parametrize("of_bank", [F64, F32, BF16], ids=str)
@pytest.mark.parametrize("of_rows", [F64, F32, BF16, F16], ids=str)
def test_rows_and_bank_of_other_dtypes(
    of_rows: torch.dtype, of_bank: torch.dtype, contrast_with: str, mined: bool
) -> None:
    """In float64 where one of them is; else the bank is contrasted with in its own dtype."""
    x, y = torch.randn(N, D).to(of_rows), torch.arange(N) % K
    bank = bank_of(unit_rows(N), y, of_bank)
    options: dict[str, Any] = {"contrast_with": contrast_with, "mining": mining(mined)}
    x.requires_grad_()
    loss = info_nce(x, y, memory=bank, **options)
    loss.backward()
    used = (of_rows,) if contrast_with == "batch" else (of_rows, of_bank)
    assert loss.dtype == (F64 if F64 in used else F32)
    assert x.grad is not None
    assert x.grad.dtype == of_rows
    z = x.detach().double().requires_grad_()
    truth = bank_of(unit_rows(1), y[:1], F64)
    truth.rows.copy_(bank.rows)
    truth.labels.copy_(bank.labels)
    wanted = info_nce(z, y, memory=truth, **options)
    wanted.backward()
    if loss.dtype == F64:
        torch.testing.assert_close(loss, wanted)
        torch.testing.assert_close(x.grad, z.grad.to(of_rows))
    else:  # thresholds of mining are a bin off
        torch.testing.assert_close(loss.double(), wanted, rtol=2e-2 if mined else 3e-3, atol=0)


@pytest.mark.parametrize(("of_rows", "of_bank"), [(F64, F32), (F32, F64), (BF16, F64), (F64, BF16)])
def test_a_loss_over_maps_and_a_bank_of_another_dtype(of_rows: torch.dtype, of_bank: torch.dtype) -> None:
    bank = fpc.MemoryBank(K, D, 6, 6, dtype=of_bank)
    loss = fpc.PixelContrastLoss(max_samples=30, max_views=6, min_pixels=1, num_classes=K, memory=bank)
    x = torch.randn(2, D, 5, 4).to(of_rows).requires_grad_()
    y = (torch.arange(40) % K).view(2, 5, 4)
    for _ in range(3):
        value = loss(x, y, y)
    value.backward()
    assert value.dtype == F64
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (bank.labels >= 0).any()


@pytest.mark.parametrize(("of_rows", "of_bank"), [(F64, F32), (F32, F64), (BF16, F64), (F64, BF16)])
def test_a_backend_without_the_wider_dtype_names_both(of_rows: torch.dtype, of_bank: torch.dtype) -> None:
    y = torch.arange(N) % K
    bank = bank_of(unit_rows(N), y, of_bank)
    x = torch.randn(N, D).to(of_rows)
    got = rf"got rows of {of_rows} and a bank of {of_bank}, want one dtype, .*: backend 'native' can't run"
    with pytest.raises(TypeError, match=f"anchors, memory: {got}"):
        info_nce(x, y, memory=bank, backend="native")
    maps = (x.T.reshape(1, D, 8, 5), y.view(1, 8, 5), y.view(1, 8, 5))
    with pytest.raises(TypeError, match=f"embeddings, memory: {got}"):
        pixel_contrast(*maps, memory=bank, backend="native")
    with fpc.backend("native"), pytest.raises(TypeError, match=f"anchors, memory: {got}"):
        info_nce(x, y, memory=bank, mining=mining(True))


@pytest.mark.parametrize("across", ["gather", "ring"])
def test_across_ranks(across: str) -> None:
    on_ranks(2, rows_and_bank_of_other_dtypes, across)


KINDS = ("self", "all", "separate", "memory", "memory alone", "mining", "pixel_contrast", "PixelContrastLoss")


def loss_of(kind: str, x: Tensor, c: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` [40, 16], ``c`` [30, 16]; a bank is filled from ``c``, in ``dtype``."""
    y, z = (torch.arange(n, device=x.device) * 7 % 11 % K for n in (N, 30))
    options: dict[str, Any] = {"max_samples": N, "max_views": 8, "min_pixels": 1, "num_classes": K}
    maps = (x.T.reshape(1, D, 8, 5), y.view(1, 8, 5), y.view(1, 8, 5))
    bank = fpc.MemoryBank(K, D, 6, 6, dtype=dtype).to(x.device)
    if "memory" in kind or kind == "PixelContrastLoss":
        bank.enqueue(c.detach().T.reshape(1, D, 6, 5), z.view(1, 6, 5), seed=0)
    if kind == "separate":
        return info_nce(x, y, c, z)
    if kind == "pixel_contrast":
        return pixel_contrast(*maps, **options)
    if kind == "PixelContrastLoss":
        torch.manual_seed(3)
        return fpc.PixelContrastLoss(memory=bank, **options).to(x.device).eval()(*maps)
    if kind == "mining":  # all pairs, or thresholds would be a bin off
        return info_nce(x, y, mining=fpc.Mining("none", "none"))
    if "memory" in kind:
        return info_nce(x, y, memory=bank, contrast_with="memory" if "alone" in kind else "both")
    return info_nce(x, y, denominator="all" if kind == "all" else "negatives")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_autocast_normalises_first(dtype: torch.dtype, kind: str, complete_backend: Backend) -> None:
    """float32 rows of any norm have the loss and the gradient that rounding of unit rows leaves."""
    device, norms = complete_backend.device, NORMS
    if complete_backend.name == "triton" and define.INTERPRETING:
        norms = (4e-8, 4e5)
        if kind not in ("separate", "memory"):
            pytest.skip("the same kernels, slowly")
    unit, others = unit_rows(N, device), unit_rows(30, device)
    for norm in norms:
        x, c = (unit * norm).requires_grad_(), (others * norm).requires_grad_()
        with fpc.backend("reference"):
            wanted = loss_of(kind, x, c, F64)
        wanted.backward()
        x32, c32 = (t.detach().float().requires_grad_() for t in (x, c))
        with torch.autocast(device, dtype):
            loss = loss_of(kind, x32, c32, F32)
        loss.backward()
        assert loss.dtype == F32
        torch.testing.assert_close(loss.double(), wanted.detach(), rtol=TOLERANCE[dtype] / 4, atol=0)
        for got, truth in ((x32, x), (c32, c)):
            if truth.grad is None:
                assert got.grad is None
                continue
            assert got.grad is not None
            assert got.grad.dtype == F32
            error = (got.grad.double() - truth.grad).norm() / truth.grad.norm()
            assert error < TOLERANCE[dtype], f"{kind}, norm {norm}: {error}"


def test_autocast_of_the_other_half_precision(backend: Backend) -> None:
    """bfloat16 rows of norm 4e5 under float16, too."""
    y = torch.arange(N, device=backend.device) % K
    x = (unit_rows(N, backend.device) * 4e5).to(BF16)
    with torch.autocast(backend.device, F16):
        loss = info_nce(x, y)
    with fpc.backend("reference"):
        torch.testing.assert_close(loss.double(), info_nce(x.double(), y), rtol=5e-3, atol=0)


def test_autocast_leaves_float64_and_rows_as_they_are(backend: Backend) -> None:
    y = torch.arange(N, device=backend.device) % K
    with fpc.backend("auto"), torch.autocast(backend.device, BF16):
        assert info_nce(torch.randn(N, D, dtype=F64, device=backend.device), y).dtype == F64
    x = torch.randn(N, D, device=backend.device) / 4
    with torch.autocast(backend.device, BF16):
        loss = info_nce(x, y, normalize=False)
    torch.testing.assert_close(loss, info_nce(x.bfloat16(), y, normalize=False))


SHAPES = ((), (1,), (1, 1), (1, 1, 1))


@pytest.mark.parametrize("kind", ["info_nce", "base", "none", "memory", "mining", "pixel_contrast", "SupConLoss"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_temperature_of_one_element_has_any_shape(shape: tuple[int, ...], kind: str) -> None:
    x, y = torch.randn(N, D), torch.arange(N) % K
    maps = (x.T.reshape(1, D, 8, 5), y.view(1, 8, 5), y.view(1, 8, 5))
    bank = bank_of(unit_rows(N), y, F32)

    def loss(tau: Tensor) -> Tensor:
        if kind == "pixel_contrast":
            contrast = fpc.PixelContrastLoss(tau, max_views=8, min_pixels=1, num_classes=K)
            torch.manual_seed(0)
            return contrast(*maps)
        if kind == "SupConLoss":
            return fpc.SupConLoss(tau)(x, y)
        options: dict[str, Any] = {
            "base": {"base_temperature": 0.07},
            "none": {"reduction": "none"},
            "memory": {"memory": bank, "base_temperature": 0.07},
            "mining": {"mining": mining(True)},
        }.get(kind, {})
        return info_nce(x, y, temperature=tau, **options)

    plain = torch.nn.Parameter(torch.tensor(0.2))
    tau = torch.nn.Parameter(torch.full(shape, 0.2))
    wanted, got = loss(plain), loss(tau)
    assert got.shape == ((N,) if kind == "none" else ())
    torch.testing.assert_close(got, wanted)
    wanted.sum().backward()
    got.sum().backward()
    assert tau.grad is not None
    assert plain.grad is not None
    assert tau.grad.shape == shape
    torch.testing.assert_close(tau.grad, plain.grad.view(shape))


@pytest.mark.parametrize("shape", [(0,), (2,), (1, 2)])
def test_a_temperature_of_more_elements_is_refused(shape: tuple[int, ...]) -> None:
    tau = torch.full(shape, 0.1)
    for make in (fpc.PixelContrastLoss, fpc.SupConLoss, fpc.InfoNCELoss):
        with pytest.raises(
            TypeError, match=r"temperature: got torch.float32 \(.*\), want a number or a .* one element"
        ):
            make(tau)
    with pytest.raises(TypeError, match=r"temperature: got torch.float32 \(.*\), want a number or a .* one element"):
        info_nce(torch.randn(4, D), torch.arange(4), temperature=tau)


@pytest.mark.parametrize("size", [1, 2])
def test_a_temperature_of_fully_sharded_data_parallel(size: int) -> None:
    on_ranks(size, trains_a_sharded_temperature)
